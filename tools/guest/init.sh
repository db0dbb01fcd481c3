#!/bin/busybox sh
# The guest's only program. It fills a tmpfs with known patterns, says so on the console, and
# then checks for ever that they are still there. PC_RANDOM_MB, PC_ZEROS_MB and PC_CHECK_EVERY_S
# come from the kernel's command line, which hands words that it does not know to init as
# environment. The patterns are described again, for the host, in patterns.py.

/bin/busybox --install -s /bin
export PATH=/bin
exec </dev/console >/dev/console 2>&1

fail() {
    echo "GUEST FAILED: $*"
    reboot -f # with QEMU's -no-reboot and the kernel's reboot=t: QEMU ends
}

# One printf per page, one tr per file: a fork per page would take seconds under TCG.
# Letters and blanks stand for bytes that printf cannot pass through a shell's variable.
edge_pages() {
    i=0
    while [ $i -lt 256 ]; do
        place=$((i * 4095 / 255))
        case $((i % 5)) in
            0) byte=a ;; 1) byte=b ;; 2) byte=c ;; 3) byte=d ;; 4) byte=e ;;
        esac
        printf "%${place}s${byte}%$((4095 - place))s" '' ''
        i=$((i + 1))
    done | tr ' abcde' '\000\001\200\377\020\101'
}

tag_pages() {
    i=0
    while [ $i -lt 256 ]; do
        printf 'PGCHKTAG%08d%4080s' $i ''
        i=$((i + 1))
    done | tr ' ' '\000'
}

# The sums stay in a variable of the shell: a sums file could be lost with what it guards.
sums() {
    md5sum random.bin zeros.bin edge.bin tag.bin
}

mkdir -p /fill
mount -t tmpfs -o size=90% tmpfs /fill || fail "no tmpfs"
cd /fill || fail "no /fill"

dd if=/dev/urandom of=random.bin bs=1M count="$PC_RANDOM_MB" 2>/dev/null || fail "random.bin"
dd if=/dev/zero of=zeros.bin bs=1M count="$PC_ZEROS_MB" 2>/dev/null || fail "zeros.bin"
edge_pages >edge.bin || fail "edge.bin"
tag_pages >tag.bin || fail "tag.bin"

# Free pages that are not zero: the kernel clears a page when it is allocated, not when freed.
dd if=/dev/urandom of=freed.bin bs=512k count="$PC_RANDOM_MB" 2>/dev/null || fail "freed.bin"
rm freed.bin

want=$(sums) || fail "md5sum"
echo "GUEST FILLED"

n=1
while sleep "$PC_CHECK_EVERY_S"; do
    if [ "$(sums)" = "$want" ]; then echo "CHECK $n OK"; else echo "CHECK $n BAD"; fi
    n=$((n + 1))
done
fail "sleep"
