# fsx: random reads, writes, mappings, truncations, holes and copies on one file, every read compared with a model.
. "${0%/*}/lib.sh"

# fsx keeps what it maps for reading; a process may have 65530 mappings, and thousands make each truncation slow: so runs of
# this many operations.
RUN=5000

# exercise NAME SEED OPERATIONS CONFIG...: the same operations each time. fsx knows nothing of O_DIRECT, so for the names
# that begin with `direct` a library adds it to every open. No posix_fallocate there: fsx aligns lengths down to nothing.
exercise() {
    name=$1 seed=$2 operations=$3
    shift 3
    preload=''
    case $name in direct*) preload=$PRELOAD ;; esac
    printf '%s\n' "$@" > "$SCRATCH/$name.toml"
    check "$name" runs
}

runs() {
    while [ "$operations" -gt 0 ]; do
        run=$((operations < RUN ? operations : RUN))
        LD_PRELOAD="$preload" DIRECT_IO="$DIR/$name" fsx -f "$SCRATCH/$name.toml" -N "$run" -S "$seed" -P "$SCRATCH" "$DIR/$name"
        operations=$((operations - run)) seed=$((seed + 1000))
    done
}

exercise buffered 1 "$OPERATIONS" 'flen = 1048576' '[weights]' 'mapread = 0' 'mapwrite = 0' \
    'close_open = 1' 'fsync = 0.1' 'fdatasync = 0.1' 'sendfile = 5' 'posix_fadvise = 1'
exercise mapped 2 "$OPERATIONS" 'flen = 262144' '[weights]' 'mapread = 20' 'mapwrite = 20' 'close_open = 1' 'invalidate = 1'
exercise direct 6 "$OPERATIONS" 'flen = 1048576' '[opsize]' 'align = 4096' '[weights]' 'mapread = 0' 'mapwrite = 0' \
    'close_open = 1' 'punch_hole = 2' 'copy_file_range = 2'
exercise direct-mapped 7 $((OPERATIONS / 10)) 'flen = 262144' '[opsize]' 'align = 4096' '[weights]' 'close_open = 1'
exercise holes 3 $((OPERATIONS / 5)) 'flen = 1048576' '[weights]' 'punch_hole = 10' 'posix_fallocate = 5' 'copy_file_range = 10' \
    'close_open = 1'
# Sizes and offsets that are multiples of nothing, around the edges of a few pages.
exercise small 4 $((OPERATIONS / 5)) 'flen = 9999' '[opsize]' 'max = 777' '[weights]' 'close_open = 1' 'invalidate = 1' \
    'copy_file_range = 5' 'punch_hole = 5' 'sendfile = 5'
# Larger than a request can be.
exercise large 5 $((OPERATIONS / 50)) 'flen = 16777216' '[opsize]' 'max = 3000000' '[weights]' 'close_open = 1' 'truncate = 1'
