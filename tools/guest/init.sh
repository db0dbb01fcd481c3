#!/bin/busybox sh
# The guest's only program. It fills a tmpfs with known patterns, says so on the console, and
# then checks for ever that they are still there. Words PC_* come from the kernel's command line,
# which hands words that it does not know to init as environment. The patterns are described
# again, for the host, in patterns.py.
#
# PC_RANDOM_MB, PC_ZEROS_MB   how much it keeps; without them 8
# PC_CHECK_EVERY_S            seconds between two checks; without it 1
# PC_DISK                     1: it keeps files on the disk vda, too, and checks its file system
# PC_WRITE_MIB_S              not 0: it changes memory at this rate all the time

/bin/busybox --install -s /bin
export PATH=/bin
exec </dev/console >/dev/console 2>&1

: "${PC_RANDOM_MB:=8}" "${PC_ZEROS_MB:=8}" "${PC_CHECK_EVERY_S:=1}" "${PC_DISK:=0}" "${PC_WRITE_MIB_S:=0}"

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

# The disk. Eight files; each time four of them are written anew, forced to the disk and then read
# back from it behind a check of the file system: unmounting drops all that memory holds of it.
disk_start() {
    mount -t devtmpfs dev /dev || fail "no devtmpfs"
    for driver in /drivers/*.ko; do insmod "$driver" || fail "$driver"; done
    /e2fs/mke2fs -q -F -t ext4 /dev/vda || fail "mke2fs"
    mkdir -p /disk
    mount -t ext4 /dev/vda /disk || fail "no /disk"
}

disk_write() {
    i=0
    while [ $i -lt 4 ]; do
        skip=$(((n * 5 + i * 3) % (PC_RANDOM_MB * 16 - 7)))
        dd if=random.bin of=/disk/file$(((n * 4 + i) % 8)) bs=64k count=8 skip=$skip conv=fsync 2>/dev/null ||
            return 1
        i=$((i + 1))
    done
}

disk_good() {
    disk_want=$(md5sum /disk/file*) || return 1
    umount /disk || return 1
    /e2fs/e2fsck -f -n /dev/vda >/fsck.log 2>&1 || { cat /fsck.log; return 1; }
    mount -t ext4 /dev/vda /disk || return 1
    [ "$(md5sum /disk/file*)" = "$disk_want" ]
}

# The load. moving.bin holds the blocks of random.bin turned by a number of MiB that grows with each
# round, so each write changes what is there; twice.bin is random.bin twice, to read it from anywhere.
# What moving.bin must hold follows from how much was written.
now_cs() {
    read -r up _ </proc/uptime
    now=${up%.*}${up#*.}
}

load_start() {
    mkdir -p /proc
    mount -t proc proc /proc || fail "no /proc"
    cat random.bin random.bin >twice.bin || fail "twice.bin"
    cp random.bin moving.bin || fail "moving.bin"
    wrote=$PC_RANDOM_MB
    now_cs
    load_began=$now
}

load_for() {
    now_cs
    load_ends=$((now + $1 * 100))
    while [ "$now" -lt "$load_ends" ]; do
        due=$((PC_WRITE_MIB_S * (now - load_began) / 100 + PC_RANDOM_MB - wrote))
        round=$((wrote / PC_RANDOM_MB))
        place=$((wrote % PC_RANDOM_MB))
        count=$((PC_RANDOM_MB - place < due ? PC_RANDOM_MB - place : due))
        if [ $count -lt 1 ]; then
            sleep 0.02
        else
            dd if=twice.bin of=moving.bin bs=1M count=$count conv=notrunc \
                skip=$(((round + place) % PC_RANDOM_MB)) seek=$place 2>/dev/null || fail "moving.bin"
            wrote=$((wrote + count))
        fi
        now_cs
    done
}

load_expected() {
    round=$((wrote / PC_RANDOM_MB))
    place=$((wrote % PC_RANDOM_MB))
    dd if=twice.bin bs=1M count=$place skip=$((round % PC_RANDOM_MB)) 2>/dev/null
    dd if=twice.bin bs=1M count=$((PC_RANDOM_MB - place)) \
        skip=$(((round - 1 + place) % PC_RANDOM_MB)) 2>/dev/null
}

load_good() {
    echo "WROTE $((wrote - PC_RANDOM_MB)) MIB"
    [ "$(md5sum <moving.bin)" = "$(load_expected | md5sum)" ]
}

# What it does until the next check.
work() {
    if [ "$PC_DISK" = 1 ]; then disk_write || return 1; fi
    if [ "$PC_WRITE_MIB_S" != 0 ]; then
        load_for "$PC_CHECK_EVERY_S"
    else
        sleep "$PC_CHECK_EVERY_S"
    fi
}

good() {
    [ "$(sums)" = "$want" ] || return 1
    if [ "$PC_DISK" = 1 ]; then disk_good || return 1; fi
    if [ "$PC_WRITE_MIB_S" != 0 ]; then load_good || return 1; fi
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
[ "$PC_DISK" != 1 ] || disk_start
[ "$PC_WRITE_MIB_S" = 0 ] || load_start
echo "GUEST FILLED"

n=1
while work; do
    if good; then echo "CHECK $n OK"; else echo "CHECK $n BAD"; fi
    n=$((n + 1))
done
fail "work"
