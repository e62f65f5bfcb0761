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
    suite=${suite#debian-}
    mirror=$(cat "$CACHE/debian-$suite.mirror")
    # debootstrap looks for programs in /sbin first, for dpkg in /usr/bin, and never in /tools. busybox's chroot, once the
    # chroot has a /proc, runs busybox's own dpkg for the one in there.
    mkdir -p /sbin /usr/bin
    ln -s /tools/* /sbin/
    ln -s /tools/dpkg /usr/bin/
fi
packages="$CACHE/debian-$suite.tar"

download() {
    # debootstrap looks for the archive's lists by the name of the mirror that they are from.
    [ -f "$packages" ] && [ -f "${packages%.tar}.mirror" ] && return
    debootstrap --variant=minbase --make-tarball="$packages.new" "$suite" "$SCRATCH/download" "$mirror"
    echo "$mirror" > "${packages%.tar}.mirror"
    mv "$packages.new" "$packages"
}

# By dash: in a guest sh is busybox, which takes its own dpkg for the real one.
installed() {
    # The archive holds a log of its own, which takes this one's name: what is said goes to the file opened here.
    mkdir -p "$root/debootstrap"
    : > "$root/debootstrap/debootstrap.log"
    exec 9< "$root/debootstrap/debootstrap.log"
    dash "$(command -v debootstrap)" --variant=minbase --unpack-tarball="$packages" "$suite" "$root" "$mirror" || {
        tail -n 50 <&9
        return 1
    }
}

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
