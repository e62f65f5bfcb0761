# git: a repository of many files is made, cloned, checked, packed, and two branches of it are checked out and merged.
. "${0%/*}/lib.sh"

files=$(quick_or 1000 10000)
export HOME="$SCRATCH" GIT_CONFIG_NOSYSTEM=1
cd "$DIR" || exit 1
cat > "$SCRATCH/.gitconfig" << 'END'
[user]
    name = Somebody
    email = somebody@example.org
[init]
    defaultBranch = main
[advice]
    detachedHead = false
END

create() {
    mkdir origin
    cd origin
    git init --quiet
    awk -v files="$files" 'BEGIN {
        for (i = 0; i < files; i++) {
            dir = "d" i % 37 "/e" i % 11
            if (!(dir in made)) { system("mkdir -p " dir); made[dir] = 1 }
            file = dir "/file " i
            for (line = 0; line < i % 23; line++) print i, line, i * line > file
            printf "%s", i > file
            close(file)
        }
    }'
    chmod 755 "d0/e0/file 0"
    ln -s "d0/e0/file 0" link
    git add --all
    git commit --quiet --message first
    same $((files + 1)) "$(git ls-files | wc -l)"
}

unchanged() { cd origin && same '' "$(git status --porcelain)"; }

noticed() {
    cd origin
    echo more >> "d1/e1/file 1"
    rm "d2/e2/file 2"
    echo new > new
    same ' M "d1/e1/file 1"  D "d2/e2/file 2" ?? new ' "$(git status --porcelain | tr '\n' ' ')"
    git stash --quiet --include-untracked
    same '' "$(git status --porcelain)"
    git stash pop --quiet
    git checkout --quiet .
    rm new
}

cloned() {
    git clone --quiet "$1" origin/.git "$2"
    same '' "$(git -C "$2" status --porcelain)"
    diff --recursive --no-dereference --exclude=.git origin "$2"
}

branches() {
    cd origin
    git checkout --quiet -b side
    for n in 3 4 5; do echo side > "d$n/e$n/file $n"; done
    git commit --quiet --all --message side
    git checkout --quiet main
    git mv d6 renamed
    git commit --quiet --message renamed
    git merge --quiet --message merged side
    same side "$(cat 'd4/e4/file 4')"
    git checkout --quiet HEAD~1
    git checkout --quiet main
    same '' "$(git status --porcelain)"
}

worktree() {
    git -C origin worktree add --quiet ../tree side
    same '' "$(git -C tree status --porcelain)"
    git -C origin worktree remove tree
}

sound() { git -C "$1" fsck --full --strict --no-dangling; }

collected() {
    git -C origin gc --quiet --prune=now
    sound origin
    same '' "$(git -C origin status --porcelain)"
}

fetched() {
    git -C clone pull --quiet
    same "$(git -C origin rev-parse main)" "$(git -C clone rev-parse HEAD)"
    diff --recursive --no-dereference --exclude=.git origin clone
}

check create create
check status unchanged
check status-of-changes noticed
check fsck sound origin
check clone cloned --no-local clone
check clone-by-hard-links cloned --local local
check branches branches
check worktree worktree
check gc collected
check pull fetched
check fsck-clone sound clone
check removal rm -r origin clone local
