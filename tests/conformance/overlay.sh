# overlayfs with its upper and work directories on the share, as a container's root has them.
. "${0%/*}/lib.sh"

# A guest's tmpfs may have no user attributes; then the image is on the share as well.
lower="$SCRATCH/lower" merged="$SCRATCH/merged"
setfattr -n user.probe -v 1 "$SCRATCH" 2> /dev/null || lower="$DIR/lower"
mkdir -p "$lower" "$merged" "$DIR/upper" "$DIR/work"

image() {
    cd "$lower"
    mkdir -p etc usr/bin var/lib/pkg opt/a/b
    echo one > etc/config
    echo two > etc/other
    head -c 2000000 /dev/urandom > usr/bin/program
    chown 3:4 usr/bin/program
    chmod 4755 usr/bin/program
    touch -d '2001-02-03 04:05:06.789' usr/bin/program
    setfattr -n user.origin -v lower usr/bin/program
    ln usr/bin/program usr/bin/hard
    ln -s program usr/bin/soft
    for n in 1 2 3 4 5; do echo $n > var/lib/pkg/$n; done
    echo deep > opt/a/b/file
    mkfifo opt/fifo
}

# userxattr: the daemon does not have to be able to set trusted attributes.
mounted() { mount -t overlay overlay -o "lowerdir=$lower,upperdir=$DIR/upper,workdir=$DIR/work,userxattr$1" "$merged"; }

remounted() { umount "$merged" && mounted ''; }

whiteout() {
    rm "$merged/etc/config"
    [ ! -e "$merged/etc/config" ]
    same 'character special file 0 0' "$(stat -c '%F %t %T' "$DIR/upper/etc/config")"
    same other "$(ls "$merged/etc")"
    echo again > "$merged/etc/config"
    same again "$(cat "$merged/etc/config")"
    rm "$merged/etc/config"
}

opaque() {
    rm -r "$merged/var/lib/pkg"
    [ ! -e "$merged/var/lib/pkg" ]
    mkdir "$merged/var/lib/pkg"
    same '' "$(ls "$merged/var/lib/pkg")"
    same y "$(getfattr --only-values -n user.overlay.opaque "$DIR/upper/var/lib/pkg")"
    echo new > "$merged/var/lib/pkg/6"
    same 6 "$(ls "$merged/var/lib/pkg")"
}

copy_up() {
    before=$(stat -c '%a %u %g %s %y' "$merged/usr/bin/program")
    sum=$(sha256sum < "$merged/usr/bin/program")
    # Something that keeps what is to be compared: the owner stays what it is.
    setfattr -n user.more -v upper "$merged/usr/bin/program"
    same "$before" "$(stat -c '%a %u %g %s %y' "$merged/usr/bin/program")"
    same "$before" "$(stat -c '%a %u %g %s %y' "$DIR/upper/usr/bin/program")"
    same "$sum" "$(sha256sum < "$merged/usr/bin/program")"
    same lower "$(getfattr --only-values -n user.origin "$merged/usr/bin/program")"
    same program "$(readlink "$merged/usr/bin/soft")"
    echo more >> "$merged/opt/a/b/file"
    same 'deep more ' "$(tr '\n' ' ' < "$merged/opt/a/b/file")"
    same deep "$(cat "$lower/opt/a/b/file")"
}

open_across_copy_up() {
    exec 5< "$merged/var/lib/pkg/6"
    echo changed > "$merged/var/lib/pkg/6"
    same changed "$(cat <&5)"
    exec 5<&-
}

renames() {
    mv "$merged/etc/other" "$merged/etc/moved"
    [ ! -e "$merged/etc/other" ]
    same two "$(cat "$merged/etc/moved")"
    mv "$merged/opt" "$merged/srv"
    same deep "$(head -n 1 "$merged/srv/a/b/file")"
    [ -p "$merged/srv/fifo" ]
    [ ! -e "$merged/opt" ]
    mkdir "$merged/opt"
    same '' "$(ls "$merged/opt")"
}

links() {
    ln "$merged/etc/moved" "$merged/etc/linked"
    same 2 "$(stat -c %h "$merged/etc/linked")"
    echo through >> "$merged/etc/linked"
    same 'two through ' "$(tr '\n' ' ' < "$merged/etc/moved")"
}

many() {
    mkdir "$merged/many"
    seq 500 | sed "s:^:$merged/many/:" | xargs touch
    same 500 "$(ls "$merged/many" | wc -l)"
    rm "$merged/many/"1*
    same 389 "$(ls "$merged/many" | wc -l)"
    rm -r "$merged/many"
}

attributes() {
    chown 11:12 "$merged/etc/moved"
    chmod 640 "$merged/etc/moved"
    touch -d '1999-01-02 03:04:05' "$merged/etc/moved"
    same '640 11 12 915246245' "$(stat -c '%a %u %g %Y' "$merged/etc/moved")"
    setfacl -m u:5:r "$merged/etc/moved"
    getfacl --absolute-names --numeric "$merged/etc/moved" | grep '^user:5:r--'
}

persistent() {
    find "$merged" -printf '%P %y %m %U %G %s\n' | sort > "$SCRATCH/before"
    remounted
    find "$merged" -printf '%P %y %m %U %G %s\n' | sort > "$SCRATCH/after"
    diff "$SCRATCH/before" "$SCRATCH/after"
    same 'two through ' "$(tr '\n' ' ' < "$merged/etc/moved")"
}

volatile() {
    umount "$merged"
    rm -rf "$DIR/upper" "$DIR/work"
    mkdir "$DIR/upper" "$DIR/work"
    mounted ,volatile
    echo x >> "$merged/etc/config"
    same 'one x ' "$(tr '\n' ' ' < "$merged/etc/config")"
}

check image image
check mount mounted ''
if mountpoint -q "$merged"; then
    check whiteout whiteout
    check opaque-directory opaque
    check copy-up copy_up
    check open-across-a-change open_across_copy_up
    check rename renames
    check hard-link links
    check many-files many
    check attributes attributes
    check remount persistent
    check volatile volatile
    umount "$merged"
fi
