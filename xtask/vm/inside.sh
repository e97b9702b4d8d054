# Runs the tests in the virtual machine, and says how each went in lines that the host looks for.
# Before this stand the lines that set `repository`, `target` and `tests`.
mkdir -p "$repository"
mount --bind /payload/repository "$repository"
mkdir -p "$target"
mount --bind /payload/target "$target"
export HOME=/root LANG=C.UTF-8 PYTHONUNBUFFERED=1
# Some tests look at how long things take.
export PALISADE_TEST_SLOWNESS=10
export CARGO_TARGET_DIR="$target" PALISADE_BIN="$target/debug/palisade"

now() { cut -d. -f1 /proc/uptime; }

# step NAME COMMAND…
step() {
    name=$1
    shift
    began=$(now)
    echo "palisade-vm: $name begins"
    "$@" 2>&1
    code=$?
    if [ "$code" = 0 ]; then result=passed; else result=failed; fi
    echo "palisade-vm: $name $result ($code) after $(($(now) - began)) s"
}

echo "palisade-vm: kernel $(uname -r), cgroups $(cat /sys/fs/cgroup/cgroup.controllers)"
cd "$repository/crates/jail" || exit 1
for test in $tests; do
    step "${test%-*}" "$target/debug/deps/$test"
done
cd "$repository" || exit 1
step client "$target/venv/bin/python" -m pytest -q -rfE --durations=10 tests/vm
echo "palisade-vm: end"
