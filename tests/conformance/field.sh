# field: what went wrong on shares of this and other daemons, on every file system that people
# share. Each is mounted beneath the directory and has the same files in its `seed`; the host works
# there beside the script.
. "${0%/*}/lib.sh"

grounds=
for ground in plain tmpfs overlay overlay-two btrfs xfs fuse idmapped; do
    if [ -d "$ground" ]; then
        grounds="$grounds $ground"
    else
        skip "$ground" "$(cat "$ground.missing")"
    fi
done

# Somebody who is not root.
user() { setpriv --reuid=1 --regid=1 --clear-groups "$@"; }

fails() {
    if "$@"; then
        echo "'$*' should fail"
        return 1
    fi
}

# reachable GROUND TEST: whether other users than root come there, or a test that is skipped.
reachable() {
    user test -x "$DIR/$1/." && return
    skip "$1/$2" 'the file system is for root alone'
    return 1
}

# Names of any length and bytes go, come and move; a listing is the host's.
names() {
    mkdir "$1/names"
    cd "$1/names"
    long=$(printf '%0255d' 0)
    echo long > "$long"
    : > "$(printf 'not\303UTF-8\377')"
    mkdir dir empty
    mv "$long" dir/short
    ln dir/short hard
    rm dir/short
    ln -s hard soft
    same long "$(cat soft)"
    mv -T dir empty
    seq 300 | sed 's:^:empty/:' | xargs touch
    same 300 "$(ls empty | wc -l)"
    rm empty/1*
    same 189 "$(ls empty | wc -l)"
    mv empty moved
    fails ls empty
    rm -r moved
    same "$(ls -a)" "$(second "ls -a \"\$DIR/$1/names\"")"
}

# An inode is itself under all its names, while it is open, and when another takes its name.
identity() {
    mkdir "$1/identity"
    cd "$1/identity"
    echo one > a
    ln a b
    same "$(stat -c %i a)" "$(stat -c %i b)"
    same "$(stat -c %i a)" "$(second "stat -c %i \"\$DIR/$1/identity/a\"")"
    exec 5< a
    echo two > new
    mv new a
    same one "$(cat <&5)"
    exec 5<&-
    same one "$(cat b)"
    rm b
    same two "$(cat a)"
    mkdir dir
    (
        cd dir
        rmdir ../dir
        same '' "$(ls)"
        fails touch file
    )
    echo three > new
    exec 5< a
    second "rm \"\$DIR/$1/identity/a\""
    same two "$(cat <&5)"
    exec 5<&-
}

# What the host sees of each file, and how large the file system is.
tree() {
    look="find . -printf '%p %y %i %n %m %U %G\\n' | sort; stat -f -c '%S %b %c' ."
    (cd "$1/seed" && eval "$look") > "$SCRATCH/here"
    second "cd \"\$DIR/$1/seed\" && $look" > "$SCRATCH/there"
    diff "$SCRATCH/there" "$SCRATCH/here"
    tar --create --file="$SCRATCH/tar" -C "$1" seed
    mkdir "$SCRATCH/out"
    tar --extract --file="$SCRATCH/tar" -C "$SCRATCH/out"
    diff -r "$1/seed" "$SCRATCH/out/seed"
    [ "$SCRATCH/out/seed/linked/one" -ef "$SCRATCH/out/seed/linked/two" ]
    rm -r "$SCRATCH/out"
}

# Parts of a file without blocks stay zeros, and no more.
holes() {
    mkdir "$1/holes"
    cd "$1/holes"
    truncate -s 8M sparse
    printf data | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
    for how in always auto; do
        cp --sparse=$how sparse $how
        cmp sparse $how
    done
    tar --create --sparse --file=archive sparse
    mkdir out
    tar --extract --sparse --file=archive -C out
    cmp sparse out/sparse
    fallocate --punch-hole --offset 4194304 --length 4194304 sparse
    same 0 "$(tr -d '\0' < sparse | wc -c)"
    same 8388608 "$(stat -c %s sparse)"
}

# What a program has written and nobody has stored yet is data.
not_written_back() {
    mkdir "$1/dirty"
    cd "$1/dirty"
    truncate -s 4M file
    mkfifo "$SCRATCH/hold"
    rm -f "$SCRATCH/said"
    file-tool dirty file < "$SCRATCH/hold" > "$SCRATCH/said" &
    exec 6> "$SCRATCH/hold"
    until grep -qs dirty "$SCRATCH/said"; do sleep 0.05; done
    for how in always auto; do
        cp --sparse=$how file $how
    done
    tar --create --sparse --file=archive file
    mkdir out
    tar --extract --sparse --file=archive -C out
    exec 6>&-
    wait $!
    rm "$SCRATCH/hold"
    same 1048576 "$(tr -d '\0' < file | wc -c)"
    for copy in always auto out/file; do cmp file $copy; done
}

# Owners are who they are said to be, whoever they are on the disk.
ids() {
    mkdir "$1/ids"
    cd "$1/ids"
    : > file
    chown 12:34 file
    same '12 34' "$(stat -c '%u %g' file)"
    same '12 34' "$(second "stat -c '%u %g' \"\$DIR/$1/ids/file\"")"
    mkdir sgid
    chown 0:7 sgid
    chmod 2777 sgid
    user touch sgid/users
    same '1 7' "$(stat -c '%u %g' sgid/users)"
    user mkdir sgid/dir
    same '1 7 2755' "$(stat -c '%u %g %a' sgid/dir)"
    fails user chmod 600 file
    fails user chown 1 file
    chmod 4755 file
    chown 13 file
    same '13 755' "$(stat -c '%u %a' file)"
}

# A file of an owner whom the mount has no id for.
unmapped() {
    cd "$1"
    same 65534 "$(stat -c %u unmapped)"
    fails chmod 600 unmapped
    fails chown 5 unmapped
    fails sh -c 'echo more >> unmapped'
    : > mine
    fails chown 70000 mine
}

# A change by somebody who may not keep them takes set-user-ID and set-group-ID away, at once and
# for all to see.
privileges() {
    mkdir "$1/privileges"
    chmod 777 "$1/privileges"
    cd "$1/privileges"
    echo new > source
    for how in write allocate copy; do
        echo old > program
        chmod 6777 program
        same 6777 "$(stat -c %a program)"
        case $how in
        write) user sh -c 'echo more >> program' ;;
        allocate) user fallocate --length 8192 program ;;
        copy) user file-tool copy source program ;;
        esac
        same "$how 777" "$how $(stat -c %a program)"
        same "$how 777" "$how $(second "stat -c %a \"\$DIR/$1/privileges/program\"")"
        rm program
    done
}

lists() {
    mkdir "$1/lists"
    cd "$1/lists"
    : > file
    setfacl -m u:5:rwx,g:6:r-x,m::r-x file
    getfacl --numeric file | grep '^user:5:rwx'
    setfacl -d -m u:7:rw- .
    : > new
    getfacl --numeric new | grep '^user:7:rw-'
    same "$(getfacl --numeric file new)" "$(second "cd \"\$DIR/$1/lists\" && getfacl --numeric file new")"
}

attributes() {
    mkdir "$1/attributes"
    cd "$1/attributes"
    : > file
    setfattr -n user.one -v value file
    same value "$(getfattr --only-values -n user.one file)"
    ln -s file link
    mkfifo fifo
    fails setfattr --no-dereference -n user.one -v value link
    fails setfattr -n user.one -v value fifo
}

trusted() {
    : > "$1/trusted"
    setfattr -n trusted.one -v value "$1/trusted"
    same value "$(getfattr --absolute-names --only-values -n trusted.one "$1/trusted")"
}

immutable() {
    cd "$1"
    fails sh -c 'echo more >> immutable'
    fails rm immutable
    fails mv immutable elsewhere
    lsattr immutable | grep '^....i'
    chattr -i immutable
    chattr +a immutable
    fails sh -c 'echo more > immutable'
    echo more >> immutable
    chattr -a immutable
    rm immutable
}

# A directory that is held is itself: after it was changed (overlayfs copies it up), after a while
# without use, and after the host forgot all that it can.
stay() {
    cd "$1/seed/app"
    echo x > new
    sleep 8
    second "echo 2 > /proc/sys/vm/drop_caches; ls -lR \"\$DIR/$1\" > \"\$DIR/$1.listing\""
    same 'file new ' "$(ls | tr '\n' ' ')"
    same app "$(cat file)"
    echo more >> new
    cd ../other
    same other "$(cat file)"
    echo changed > file
    same changed "$(cat file)"
    cd ../app
    rm new
}

# Subvolumes have the same inode numbers.
subvolumes() {
    second 'cd "$DIR/btrfs" && for n in one two; do
        btrfs -q subvolume create $n && echo $n > $n/a && ln $n/a $n/b || exit 1
    done'
    cd btrfs
    find one two > "$SCRATCH/found" 2> "$SCRATCH/said"
    same '' "$(cat "$SCRATCH/said")"
    same 'one one/a one/b two two/a two/b ' "$(sort "$SCRATCH/found" | tr '\n' ' ')"
    tar --create --file="$SCRATCH/tar" one two
    mkdir "$SCRATCH/out"
    tar --extract --file="$SCRATCH/tar" -C "$SCRATCH/out"
    for n in one two; do
        same $n "$(cat "$SCRATCH/out/$n/b")"
        [ "$SCRATCH/out/$n/a" -ef "$SCRATCH/out/$n/b" ]
    done
    rm -r "$SCRATCH/out"
    [ "$(stat -c %d one)" != "$(stat -c %d two)" ]
}

# A copy of a large file shares its blocks.
reflink() {
    second "dd if=/dev/urandom of=\"\$DIR/$1/large\" bs=1M count=300 status=none && sync \"\$DIR/$1/large\""
    room="sync -f \"\$DIR/$1\" && stat -f -c '%f %S' \"\$DIR/$1\""
    before=$(second "$room")
    cp --reflink=auto "$1/large" "$1/copy"
    after=$(second "$room")
    second "cmp \"\$DIR/$1/large\" \"\$DIR/$1/copy\""
    taken=$(((${before% *} - ${after% *}) * ${before#* } >> 20))
    [ $taken -lt 30 ] || same 'less than 30 MiB' "$taken MiB"
    rm "$1/copy" "$1/large"
}

# Who waits for a lock of its own can be killed.
own_lock() {
    : > plain/lock
    (
        exec 8<> plain/lock
        flock 8
        (
            exec 9<> plain/lock
            exec flock 9
        ) &
        sleep 1
        kill -KILL $!
        for _ in $(seq 60); do
            [ -e /proc/$! ] || exit 0
            ! grep -q '^State:.Z' /proc/$!/status || exit 0
            sleep 0.5
        done
        echo 'it waits on'
        exit 1
    )
}

# . and .. name what they should.
dots() {
    [ . -ef "$DIR" ]
    [ plain/seed/app/.. -ef plain/seed ]
    [ plain/seed/../. -ef plain ]
    ls -a . plain > /dev/null
    : > plain/synced
    sync plain/synced
}

# Many inodes are forgotten at once, and found again.
forgotten() {
    count=$(quick_or 1000 10000)
    second "mkdir \"\$DIR/plain/many\" && cd \"\$DIR/plain/many\" && seq $count | xargs touch"
    for _ in 1 2 3; do
        same $count "$(ls -l plain/many | grep -c '^-')"
        echo 2 > /proc/sys/vm/drop_caches
    done
    rm -r plain/many
}

# As many at once as there are queues, and more.
crowd() {
    mkdir plain/crowd
    workers=
    for n in $(seq 24); do
        (
            for round in 1 2 3 4; do
                echo "$n $round" > "plain/crowd/$n"
                same "$n $round" "$(cat "plain/crowd/$n")"
            done
        ) &
        workers="$workers $!"
    done
    for worker in $workers; do wait "$worker"; done
    same 24 "$(ls plain/crowd | wc -l)"
}

# A handle finds its file after the file's inode was forgotten.
handle() {
    echo text > plain/handle
    handle=$(file-tool handle plain/handle)
    same text "$(file-tool by-handle plain "$handle")"
    echo 2 > /proc/sys/vm/drop_caches
    same text "$(file-tool by-handle plain "$handle")"
}

# The share once more, with other ids: what was 0 is 10000.
idmap() {
    mkdir "$SCRATCH/mapped"
    file-tool idmap "$DIR/plain" "$SCRATCH/mapped" 0 10000 1000
    chmod 777 plain
    setpriv --reuid=10005 --regid=10006 --clear-groups touch "$SCRATCH/mapped/new"
    same '10005 10006' "$(stat -c '%u %g' "$SCRATCH/mapped/new")"
    same '5 6' "$(stat -c '%u %g' plain/new)"
    same '5 6' "$(second 'stat -c "%u %g" "$DIR/plain/new"')"
    chown 10007:10008 "$SCRATCH/mapped/new"
    same '7 8' "$(second 'stat -c "%u %g" "$DIR/plain/new"')"
    fails chown 7 "$SCRATCH/mapped/new"
    umount "$SCRATCH/mapped"
}

# One of two names goes while the guest knows the inode by the other.
name_goes() {
    second "cd \"\$DIR/$1\" && printf '#!/bin/sh\necho text\n' > a && chmod 755 a && ln a b"
    cat "$1/a" "$1/b" > "$SCRATCH/before"
    second "rm \"\$DIR/$1/b\""
    same text "$("$1/a")"
    same 'echo text' "$(tail -n 1 "$1/a")"
}

# A file that is open, and was not read before the host put another in its place.
replaced() {
    second "cd \"\$DIR/$1\" && echo before > file && echo after > new"
    exec 5< "$1/file"
    second "mv \"\$DIR/$1/new\" \"\$DIR/$1/file\""
    same before "$(cat <&5)"
    exec 5<&-
}

case $SUITE in
field-readonly)
    for ground in $grounds; do
        check "$ground/one-of-two-names-goes" name_goes "$ground"
        check "$ground/open-and-replaced" replaced "$ground"
    done
    exit
    ;;
field-idmap)
    check id-mapped-mount idmap
    [ -z "$AGENT" ] || touch "$AGENT/end"
    exit
    ;;
esac

for ground in $grounds; do check "$ground/tree" tree "$ground"; done
# They take a while, all at the same time.
for ground in $grounds; do
    mkdir "$SCRATCH/$ground"
    (
        SCRATCH="$SCRATCH/$ground"
        check "$ground/held-directory" stay "$ground"
    ) > "$SCRATCH/$ground/outcome" &
done
wait
for ground in $grounds; do cat "$SCRATCH/$ground/outcome"; done

for ground in $grounds; do
    check "$ground/names" names "$ground"
    check "$ground/identity" identity "$ground"
    check "$ground/holes" holes "$ground"
    check "$ground/not-written-back" not_written_back "$ground"
    if reachable "$ground" ids; then check "$ground/ids" ids "$ground"; fi
    case $SUITE in
    field | field-always)
        check "$ground/attributes" attributes "$ground"
        check "$ground/access-lists" lists "$ground"
        ;;
    field-never | field-writeback)
        if reachable "$ground" privileges; then check "$ground/privileges" privileges "$ground"; fi
        ;;
    esac
    case $SUITE in
    field)
        : > "$ground/immutable"
        if chattr +i "$ground/immutable" 2> /dev/null; then
            check "$ground/immutable" immutable "$ground"
        else
            skip "$ground/immutable" 'chattr +i is refused'
        fi
        ;;
    field-always) check "$ground/trusted-attribute" trusted "$ground" ;;
    esac
    case $ground in
    btrfs)
        check btrfs/subvolumes subvolumes
        check btrfs/reflink reflink btrfs
        ;;
    xfs) check xfs/reflink reflink xfs ;;
    idmapped) check idmapped/unmapped-owner unmapped idmapped ;;
    esac
done
check dots dots
check many-forgotten forgotten
check many-at-once crowd
case $SUITE in
field) check file-handle handle ;;
field-never) check waiter-for-its-own-lock own_lock ;;
esac
[ -z "$AGENT" ] || touch "$AGENT/end"
