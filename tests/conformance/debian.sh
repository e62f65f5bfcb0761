# Debian's own installer fills a chroot on the share, and dpkg and apt work in there.
. "${0%/*}/lib.sh"

root="$DIR/root"
if [ -e /etc/os-release ]; then
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    # The mirror that this host's apt uses.
    mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' 'Component: main' |
        awk -v suite="$suite" '$2 == suite { print $1; exit }')
else
    # A guest, which finds what a run on the host has downloaded, and asks nobody.
    suite=$(basename "$CACHE"/debian-*.tar .tar)
    suite=${suite#debian-} mirror=http://localhost/
    mkdir -p /usr/bin
    ln -s "$(command -v dpkg)" /usr/bin/
fi
packages="$CACHE/debian-$suite.tar"

download() {
    [ -f "$packages" ] ||
        debootstrap --variant=minbase --make-tarball="$packages.new" "$suite" "$SCRATCH/download" "$mirror"
    [ -f "$packages" ] || mv "$packages.new" "$packages"
}

# By dash: in a guest sh is busybox, which takes its own dpkg for the real one.
installed() { dash "$(command -v debootstrap)" --variant=minbase --unpack-tarball="$packages" "$suite" "$root" "$mirror"; }

inside() { chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }

complete() {
    same '' "$(inside dpkg --audit)"
    same '' "$(inside dpkg --verify)"
    inside sh -c 'dpkg-query -W | wc -l'
}

reinstalled() {
    mkdir "$root/packages"
    tar -x -f "$packages" -C "$SCRATCH" --wildcards 'var/cache/apt/archives/*.deb'
    for name in tzdata coreutils perl-base libc-bin; do
        cp "$SCRATCH/var/cache/apt/archives/${name}_"*.deb "$root/packages/"
    done
    inside sh -c 'dpkg --install /packages/*.deb'
    complete
    inside dpkg --purge --force-all tzdata
    inside sh -c '! test -e /usr/share/zoneinfo/Europe'
    inside sh -c 'dpkg --install /packages/tzdata_*.deb'
    complete
}

users() {
    inside useradd --create-home somebody
    same somebody "$(inside su somebody -c 'cd && touch file && stat -c %U file')"
    inside userdel --remove somebody
}

check download download
check debootstrap installed
check dpkg-verify complete
check dpkg-reinstall reinstalled
check users users
umount "$root/proc" "$root/sys" 2> /dev/null
check removal rm -r --one-file-system "$root"
