# fio: writes with every engine, several processes at once, reads back and verifies checksums.
. "${0%/*}/lib.sh"

size=$(quick_or 8m 128m)

# plain NAME ARGUMENTS...: a job that has no data to verify.
plain() {
    name=$1
    shift
    check "$name" fio --name="$name" --directory="$DIR" --aux-path="$SCRATCH" --output="$SCRATCH/fio.out" --size="$size" \
        --randseed=7 --group_reporting --numjobs=2 "$@"
    rm -f "$DIR/$name".*
}

# job NAME ARGUMENTS...
job() { plain "$@" --verify=crc32c --verify_fatal=1 --verify_state_save=0; }

for direct in 0 1; do
    word=buffered
    [ $direct = 0 ] || word=direct
    for engine in sync psync vsync pvsync pvsync2 libaio io_uring posixaio splice; do
        # splice has nothing to do with O_DIRECT.
        [ "$engine$direct" = splice1 ] && continue
        job "$engine-$word" --ioengine=$engine --direct=$direct --rw=randwrite --bs=4k-64k --bs_unaligned=$((1 - direct)) \
            --iodepth=16
    done
done
job mmap --ioengine=mmap --rw=randwrite --bs=4k
# Reads and writes at once.
job mixed --ioengine=libaio --rw=randrw --bs=4k --iodepth=8
job sequential --ioengine=psync --rw=write --bs=3m --fsync=1
job fallocate --ioengine=psync --rw=randwrite --bs=16k --fallocate=posix
job keep --ioengine=psync --rw=write --bs=64k --fallocate=keep --end_fsync=1
plain falloc --ioengine=falloc --rw=randwrite --bs=16k
plain ftruncate --ioengine=ftruncate --rw=randwrite --bs=16k
for engine in filecreate filestat filedelete; do
    plain $engine --ioengine=$engine --filesize=4k --nrfiles=100 --openfiles=1
done
