# Prints every file beneath the directory $1, a line each, sorted: the same on both sides of the share.
# kind, permissions, links, size, first 16 digits of SHA-256 or the link's target, name
export LC_ALL=C
cd "$1" || exit 1
find . -mindepth 1 | sort | while read -r file; do
    if [ -L "$file" ]; then
        echo "link $(stat -c '%a %h %s' "$file") $(readlink "$file") $file"
    elif [ -d "$file" ]; then
        echo "dir  $(stat -c '%a' "$file") - - - $file"
    elif [ -f "$file" ]; then
        sum=$(sha256sum < "$file")
        echo "file $(stat -c '%a %h %s' "$file") $(echo "$sum" | cut -c 1-16) $file"
    else
        echo "other $(stat -c '%a %h %F' "$file") $file"
    fi
done
