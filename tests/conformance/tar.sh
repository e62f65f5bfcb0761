# tar: a tree with everything that a file can have goes out of the share and in again, and is the same.
. "${0%/*}/lib.sh"

# everything DIR: what can be known of each file beneath a directory, one line each, with ACLs and attributes behind.
everything() {
    (
        cd "$1"
        find . -printf '%p %y %m %U %G %n %s %T@ %l\n' | sed -E 's/^([^ ]* d [^ ]* [^ ]* [^ ]*) [0-9]+ [0-9]+/\1/' | sort
        find . -type f -print0 | sort -z | xargs -0 sha256sum
        find . \( -type b -o -type c \) -exec stat -c '%n %t %T' {} + | sort
        find . ! -type l -print0 | sort -z | xargs -0 getfacl --absolute-names --numeric 2>&1
        find . -print0 | sort -z | xargs -0 getfattr --no-dereference --absolute-names --dump --match=- --encoding=hex
    )
}

tree() {
    mkdir "$1"
    cd "$1"
    mkdir -p a/b/c empty sticky sgid
    chmod 1777 sticky
    chown 1:2 sgid
    chmod 2775 sgid
    echo text > a/file
    head -c 3000000 /dev/urandom > a/b/data
    truncate -s 64M a/sparse
    printf x | dd of=a/sparse bs=1 seek=50000000 conv=notrunc status=none
    ln a/file a/b/c/hard
    ln -s ../a/file a/soft
    ln -s nowhere/at/all a/dangling
    ln -s "$(printf '%0800d' 0)" a/long
    mkfifo a/fifo
    : > a/empty
    : > "a/name with spaces and
line"
    : > "a/$(printf 'not\303UTF-8\377')"
    : > "a/$(printf '%0255d' 0)"
    chown 12345:54321 a/empty
    chown -h 7:8 a/soft
    echo set > a/set
    chown 3:4 a/set
    chmod 6751 a/set
    echo secret > a/none
    chmod 0 a/none
    touch -h -d '1969-12-31 23:59:58.123456789' a/dangling
    touch -d '1901-12-15 12:00:00' a/file
    touch -d '2100-01-02 03:04:05.987654321' a/b/data
    touch -d '2038-01-19 03:14:08.5' a/b/c
    setfattr -n user.one -v value a/file
    setfattr -n user.empty a/file
    setfattr -n user.binary -v 0x0001fe00 a/b
    setfacl -m u:5:rwx,g:6:r-x,m::r-x a/b
    setfacl -d -m u:5:rw-,g::r-x,o::--- a/b
    setfacl -m u:9:r-- a/b/data
    mkdir a/b/inherits
    : > a/b/inherits/file
    setcap cap_net_raw=ep a/set
    chown 3:4 a/set
    setcap cap_net_raw=ep a/set
    mknod a/null c 1 3
    mknod a/block b 7 200
}

pack() { tar --create --file="$2" --acls --xattrs --xattrs-include='*' --numeric-owner --sparse --format=posix -C "$1" .; }

unpack() {
    mkdir "$2"
    tar --extract --file="$1" --acls --xattrs --xattrs-include='*' --numeric-owner --same-owner --preserve-permissions \
        --delay-directory-restore -C "$2"
}

# alike DIR DIR
alike() {
    everything "$1" > "$SCRATCH/one"
    everything "$2" > "$SCRATCH/two"
    diff "$SCRATCH/one" "$SCRATCH/two"
}

# The reference tree is off the share, on whatever holds $SCRATCH; but a guest's tmpfs may have no user attributes.
local="$SCRATCH/tree" out="$SCRATCH/out"
setfattr -n user.probe -v 1 "$SCRATCH" 2> /dev/null || local="$DIR/tree" out="$DIR/out"
in_and_out() {
    pack "$local" "$SCRATCH/in.tar"
    unpack "$SCRATCH/in.tar" "$DIR/in"
    alike "$local" "$DIR/in"
    pack "$DIR/in" "$DIR/out.tar"
    unpack "$DIR/out.tar" "$out"
    alike "$local" "$out"
}

made_alike() {
    tree "$DIR/made"
    # Random data differs, so it comes from the other.
    cp -p "$local/a/b/data" "$DIR/made/a/b/data.new"
    cat "$DIR/made/a/b/data.new" > "$DIR/made/a/b/data"
    rm "$DIR/made/a/b/data.new"
    for dir in "$local" "$DIR/made"; do
        find "$dir" -exec touch -h -d '2026-01-02 03:04:05.678901234' {} +
    done
    alike "$local" "$DIR/made"
}

copied() {
    cp -a --sparse=always "$local" "$DIR/copied"
    alike "$local" "$DIR/copied"
    cp -a --sparse=always "$DIR/copied" "$DIR/again"
    alike "$local" "$DIR/again"
    find "$DIR/again" > /dev/null
    rm -r "$DIR/again"
}

# Not part of the tree: what the daemon itself may not set, it can't set for others.
trusted() {
    : > "$1/trusted"
    setfattr -n trusted.one -v value "$1/trusted"
    same value "$(getfattr --absolute-names --only-values -n trusted.one "$1/trusted")"
}

check tree tree "$local"
check tar-in-and-out in_and_out
check cp-archive copied
check made-on-the-share made_alike
check still-the-same alike "$local" "$DIR/made"
check trusted-attribute trusted "$DIR"
