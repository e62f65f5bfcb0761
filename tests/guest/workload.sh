# Works in the directory /mnt/$WORK and checks every result; ends at the first that is wrong.
# The host has put host.txt and change.txt there, and changes the latter when asked.
cd "/mnt/$WORK" || exit 1

step() {
    what=$1
    shift
    if why=$("$@" 2>&1); then
        echo "  ok    $what"
    else
        echo "  FAIL  $what: $why"
        exit 1
    fi
}

# same WANTED GOT
same() {
    [ "$1" = "$2" ] || { echo "expected '$1', got '$2'"; return 1; }
}

# until_true COMMAND...: waits for the other side, at most 20 s.
until_true() {
    n=0
    until "$@"; do
        n=$((n + 1))
        [ $n -lt 400 ] || { echo "waited in vain for: $*"; return 1; }
        usleep 50000
    done
}

sum() { sha256sum < "$1"; }

host_file() { same "written by the host before the guest booted" "$(cat host.txt)"; }

write_read() {
    dd if=/dev/urandom of=/tmp/data bs=64k count=64 2> /dev/null &&
        cp /tmp/data data.bin && sync && echo 3 > /proc/sys/vm/drop_caches &&
        same "$(sum /tmp/data)" "$(sum data.bin)"
}

append() {
    echo one > notes.txt && echo two >> notes.txt && same "one two" "$(tr '\n' ' ' < notes.txt | sed 's/ $//')"
}

truncated() { truncate -s 3 notes.txt && same one "$(cat notes.txt)" && same 3 "$(stat -c %s notes.txt)"; }

directories() { mkdir -p tree/a/b tree/c && rmdir tree/c && [ -d tree/a/b ] && [ ! -e tree/c ]; }

renamed() {
    echo first > old.txt && echo second > target.txt && mv old.txt tree/a/new.txt &&
        [ ! -e old.txt ] && same first "$(cat tree/a/new.txt)" &&
        mv tree/a/new.txt target.txt && same first "$(cat target.txt)" && mv tree/a tree/moved && [ -d tree/moved/b ]
}

hard_link() {
    ln notes.txt tree/notes-link && same 2 "$(stat -c %h notes.txt)" &&
        same "$(stat -c %i notes.txt)" "$(stat -c %i tree/notes-link)"
}

symbolic_link() {
    ln -s ../notes.txt tree/notes-symlink && same ../notes.txt "$(readlink tree/notes-symlink)" &&
        same one "$(cat tree/notes-symlink)"
}

xattrs() {
    setfattr -n user.airlock -v "set in the guest" notes.txt &&
        same "set in the guest" "$(getfattr --only-values -n user.airlock notes.txt)" &&
        getfattr notes.txt | grep -q '^user.airlock$' &&
        setfattr -n user.gone -v x notes.txt && setfattr -x user.gone notes.txt &&
        ! getfattr -n user.gone notes.txt 2> /dev/null
}

mapped() {
    truncate -s 10000 mapped.bin && guest-tool mmap-write mapped.bin 5000 "stored through a mapping" &&
        same "stored through a mapping" "$(guest-tool mmap-read mapped.bin 5000 24)" &&
        echo 3 > /proc/sys/vm/drop_caches &&
        same "stored through a mapping" "$(dd if=mapped.bin bs=1 skip=5000 count=24 2> /dev/null)"
}

permissions() { chmod 640 target.txt && same 640 "$(stat -c %a target.txt)"; }

timestamps() { touch -d "2001-02-03 04:05:06" target.txt && same 981173106 "$(stat -c %Y target.txt)"; }

many() {
    mkdir many && seq 300 | sed s:^:many/file-: | xargs touch && same 300 "$(ls many | wc -l)" &&
        rm many/file-1?? && same 200 "$(ls many | wc -l)" && rm -r many && [ ! -e many ]
}

unlinked() { echo kept > open.txt && exec 5< open.txt && rm open.txt && same kept "$(cat <&5)" && exec 5<&-; }

statistics() { df -k . | tail -n 1 | awk '{ exit !($2 > 0) }'; }

before_change() { same before "$(cat change.txt)"; }

changed_meanwhile() { until_true test -e host-done && until_true grep -q "after, and longer" change.txt; }

step "read a file that the host wrote before" host_file
step "write 4 MiB, read back with the same checksum" write_read
step "append" append
step "truncate" truncated
step "make and remove directories" directories
step "rename, over a file and a directory with content" renamed
step "hard link" hard_link
step "symbolic link" symbolic_link
step "set, get, list, remove extended attributes" xattrs
step "store through a shared memory mapping" mapped
step "change permissions" permissions
step "change times" timestamps
step "list a directory of 300 files, remove them" many
step "read a file after its removal" unlinked
step "file system statistics" statistics
step "read a file that the host will change" before_change
# The host changes it now, if it finds guest-ready.
touch guest-ready && echo ASK
step "see a file that the host changes meanwhile" changed_meanwhile
sync

sh /view.sh . | sed 's/^/VIEW /'
