# What `cargo xtask bench --guest` has a guest do on the share: each job says when it begins and ends, with the guest's clock.
work=/mnt/work
job() {
    name=$1
    shift
    echo "BEGIN $name"
    begin=$(cut -d' ' -f1 /proc/uptime)
    "$@" > /tmp/out 2>&1 || { cat /tmp/out; echo "FAIL $name"; exit 1; }
    echo "END $name $begin $(cut -d' ' -f1 /proc/uptime)"
}

# As much data as an emulated machine moves in a few seconds; O_DIRECT, so that every request reaches the daemon.
io() {
    /tools/fio --name=job --filename=$work/data --size=32M --direct=1 --ioengine=psync --numjobs=4 --thread \
        --group_reporting --rw="$1" --bs="$2" --io_size="$3"
}
tree() {
    for i in 0 1 2 3 4 5 6 7 8 9; do
        mkdir -p $work/tree/$i
        for j in 0 1 2 3 4 5 6 7 8 9 a b c d e f; do
            echo "$i $j" > $work/tree/$i/$j
        done
    done
    find $work/tree -type f -size -9 | wc -l
    cat $work/tree/*/* | wc -c
    rm -r $work/tree
}

job git-status /tools/git -C /mnt/repo --no-optional-locks status --porcelain
job list ls -lR /mnt/repo
job untar tar -xf /mnt/archive.tar -C $work
job remove rm -r $work/archive
job small-files tree
job random-write io randwrite 4k 2M
job random-read io randread 4k 4M
job sequential-write io write 1M 32M
job sequential-read io read 1M 32M
