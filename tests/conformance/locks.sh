# Locks: whoever works by way of one daemon and whoever by way of another, on one directory, exclude each other.
. "${0%/*}/lib.sh"

until_there() { until [ -e "$1" ]; do sleep 0.05; done; }

# refused COMMAND...: somebody else holds the lock.
refused() {
    status=0
    "$@" || status=$?
    same 9 $status
}

# hold NAME LOCK...: a process that holds a lock on the file NAME until the file NAME.go is there.
hold() {
    lock-tool lock "$2" "$3" wait "$DIR/$1" "$4" "$5" \
        sh -c "touch '$DIR/$1.held'; until [ -e '$DIR/$1.go' ]; do sleep 0.05; done" &
    holder=$!
    until_there "$DIR/$1.held"
}

let_go() {
    touch "$DIR/$1.go"
    wait $holder
}

# Both count in one file; without exclusion one overwrites what the other has written.
count() {
    echo 0 > "$DIR/count-$1"
    line='n=0; while [ $n -lt '$rounds' ]; do n=$((n + 1))
        lock-tool lock '$1' write wait "$DIR/lock-'$1'" 0 0 sh -c "echo \$((\$(cat \"$DIR/count-'$1'\") + 1)) > \"$DIR/count-'$1'\"" || exit 1
    done'
    second "$line" &
    other=$!
    sh -c "$line"
    wait $other
    same $((2 * rounds)) "$(cat "$DIR/count-$1")"
}

ranges() {
    hold "ranges-$1" "$1" write 100 50
    file="\$DIR/ranges-$1"
    refused second "lock-tool lock $1 write try $file 149 1"
    refused second "lock-tool lock $1 read try $file 0 0"
    refused second "lock-tool lock $1 read try $file 0 101"
    second "lock-tool lock $1 write try $file 0 100"
    second "lock-tool lock $1 write try $file 150 0"
    let_go "ranges-$1"
    second "lock-tool lock $1 write try $file 0 0"
}

shared() {
    hold "shared-$1" "$1" read 0 10
    second "lock-tool lock $1 read try \$DIR/shared-$1 0 10"
    refused second "lock-tool lock $1 write try \$DIR/shared-$1 0 10"
    let_go "shared-$1"
    second "lock-tool lock $1 write try \$DIR/shared-$1 0 10"
}

exclusive() {
    hold "exclusive-$1" "$1" write 0 0
    refused second "lock-tool lock $1 read try \$DIR/exclusive-$1 0 0"
    refused lock-tool lock "$1" read try "$DIR/exclusive-$1" 0 0
    let_go "exclusive-$1"
    second "lock-tool lock $1 read try \$DIR/exclusive-$1 0 0"
}

queried() {
    same free "$(second 'lock-tool query $DIR/queried 0 0')"
    hold queried posix write 7 8
    same 'write 7 8' "$(second 'lock-tool query $DIR/queried 0 0')"
    same free "$(second 'lock-tool query $DIR/queried 15 0')"
    let_go queried
    same free "$(second 'lock-tool query $DIR/queried 0 0')"
}

# Who waits has the lock as soon as the holder gives it back, and not before.
waits() {
    hold "waits-$1" "$1" write 0 0
    second "lock-tool lock $1 write wait \$DIR/waits-$1 0 0 touch \$DIR/waits-$1.got" &
    waiter=$!
    # Another's requests are served meanwhile.
    for n in 1 2 3 4 5; do second "echo $n > \$DIR/meanwhile"; done
    same 5 "$(cat "$DIR/meanwhile")"
    [ ! -e "$DIR/waits-$1.got" ]
    let_go "waits-$1"
    wait $waiter
    [ -e "$DIR/waits-$1.got" ]
}

# A holder that is killed holds nothing any more.
holder_killed() {
    hold "killed-$1" "$1" write 0 0
    second "lock-tool lock $1 write wait \$DIR/killed-$1 0 0 touch \$DIR/killed-$1.got" &
    waiter=$!
    refused second "lock-tool lock $1 write try \$DIR/killed-$1 0 0"
    kill -KILL $holder
    wait $waiter
    [ -e "$DIR/killed-$1.got" ]
    touch "$DIR/killed-$1.go"
}

# A waiter that is killed never has the lock, and leaves nothing behind. It may end only when its turn has come: a guest
# can't take a request back.
waiter_killed() {
    hold "gone-$1" "$1" write 0 0
    lock-tool lock "$1" write wait "$DIR/gone-$1" 0 0 touch "$DIR/gone-$1.got" &
    waiter=$!
    refused lock-tool lock "$1" write try "$DIR/gone-$1" 0 0
    kill -KILL $waiter
    let_go "gone-$1"
    wait $waiter || true
    second "lock-tool lock $1 write wait \$DIR/gone-$1 0 0"
    [ ! -e "$DIR/gone-$1.got" ]
}

# Many wait at once, by way of both, and each has its turn.
crowd() {
    hold "crowd-$1" "$1" write 0 0
    waiters=
    for n in 1 2 3 4 5 6 7 8; do
        lock-tool lock "$1" write wait "$DIR/crowd-$1" 0 0 sh -c "echo $n >> '$DIR/crowd-$1.got'" &
        waiters="$waiters $!"
        second "lock-tool lock $1 write wait \$DIR/crowd-$1 0 0 sh -c 'echo $n >> \$DIR/crowd-$1.got'" &
        waiters="$waiters $!"
    done
    let_go "crowd-$1"
    for waiter in $waiters; do wait "$waiter"; done
    same 16 "$(wc -l < "$DIR/crowd-$1.got")"
}

# flock(2)'s locks and fcntl(2)'s know nothing of each other.
kinds_are_apart() {
    hold apart flock write 0 0
    second 'lock-tool lock posix write try $DIR/apart 0 0'
    let_go apart
}

rounds=$(quick_or 20 200)
for kind in posix ofd flock; do
    check exclusive-$kind exclusive $kind
    check shared-$kind shared $kind
    [ $kind = flock ] || check ranges-$kind ranges $kind
    check waits-$kind waits $kind
    check holder-killed-$kind holder_killed $kind
    check waiter-killed-$kind waiter_killed $kind
    check crowd-$kind crowd $kind
    check count-$kind count $kind
done
check query queried
check kinds-are-apart kinds_are_apart
[ -z "$AGENT" ] || touch "$AGENT/end"
