# Runs in a second guest, or on the host: each call that a suite in the first guest leaves on the
# share, all at once.
AGENT="$1/agent" DIR="$1"
export DIR
until [ -d "$AGENT" ]; do sleep 0.1; done
cd "$DIR" || exit 1
until [ -e "$AGENT/end" ]; do
    for call in "$AGENT"/*.call; do
        [ -e "$call" ] || continue
        name="${call%.call}"
        mv "$call" "$name.taken"
        (
            status=0
            sh "$name.taken" > "$name.output" 2>&1 || status=$?
            echo $status > "$name.status"
            mv "$name.status" "$name.done"
        ) &
    done
    sleep 0.1
done
wait
