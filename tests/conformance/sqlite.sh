# SQLite: two processes write to one database, with a rollback journal and with a write-ahead log; some are killed.
. "${0%/*}/lib.sh"

rows=$(quick_or 50 2000) kills=$(quick_or "1 2" "1 2 3 4 5")
cd "$DIR" || exit 1

sql() { sqlite3 -batch -bail -cmd '.timeout 120000' "$@"; }

# writer DATABASE NAME COUNT: starts a process, $!, that does so many transactions, each of two statements that belong
# together.
writer() {
    seq "$3" | awk -v who="$2" '{
        print "BEGIN IMMEDIATE; INSERT INTO entry(who, n, data) VALUES (\x27" who "\x27, " $1 ", randomblob(" ($1 * 37) % 3000 "));"
        print "UPDATE total SET n = n + 1; COMMIT;"
    }' > "$SCRATCH/$2.sql"
    sqlite3 -batch -bail -cmd '.timeout 120000' "$1" < "$SCRATCH/$2.sql" &
}

create() {
    rm -f "$1" "$1"-*
    same "$2" "$(sql "$1" "PRAGMA journal_mode = $2;")"
    sql "$1" 'CREATE TABLE entry(id INTEGER PRIMARY KEY, who TEXT, n INTEGER, data BLOB, UNIQUE(who, n));
              CREATE INDEX by_data ON entry(data);
              CREATE TABLE total(n INTEGER); INSERT INTO total VALUES (0);'
}

sound() {
    same ok "$(sql "$1" 'PRAGMA integrity_check;')"
    same 1 "$(sql "$1" 'SELECT (SELECT count(*) FROM entry) = (SELECT n FROM total);')"
}

two_writers() {
    create "$1" "$1"
    writer "$1" one "$rows"
    one=$!
    writer "$1" two "$rows"
    two=$!
    # Readers meanwhile: each sees both halves of a transaction or none.
    for _ in 1 2 3 4 5; do sound "$1"; done
    wait $one
    wait $two
    sound "$1"
    same $((2 * rows)) "$(sql "$1" 'SELECT count(*) FROM entry;')"
    sql "$1" 'VACUUM;'
    sound "$1"
}

# A writer that is killed leaves a journal, which the next one rolls back or plays.
killed() {
    create "$1" "$1"
    for n in $kills; do
        writer "$1" "$n" 100000
        writer=$!
        until [ "$(sql "$1" "SELECT count(*) > 3 FROM entry WHERE who = '$n';")" = 1 ]; do :; done
        kill -KILL $writer
        wait $writer || true
        sound "$1"
    done
}

# Changed through the file system, and seen by who has it open: a copy that is restored over the file.
backup() {
    create "$1" "$1"
    writer "$1" one "$rows"
    wait $!
    sql "$1" ".backup '$DIR/copy'"
    sound "$DIR/copy"
    same "$rows" "$(sql "$DIR/copy" 'SELECT count(*) FROM entry;')"
    sql "$1" 'DELETE FROM entry; UPDATE total SET n = 0;' ".restore '$DIR/copy'"
    sound "$1"
    same "$rows" "$(sql "$1" 'SELECT count(*) FROM entry;')"
}

for mode in delete truncate persist wal; do
    check two-writers-$mode two_writers $mode
    check killed-$mode killed $mode
    check backup-$mode backup $mode
done
