#!/bin/sh
# On which nodes memory lies, by the kernel of a machine with two of them: qemu's,
# two CPUs and 512 MB each, with a disk of init, tests/bench/stages and a tiny
# checkpoint. Debian's cloud kernel has what that needs built in.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# WAN_KERNEL: another vmlinuz, with NVMe and ext4 built in. BEFORE: another build
# of stages, of which is printed where its pages lie.

. "$SRC/tests/fate/common.sh"
PATH=$PATH:/sbin:/usr/sbin
for program in qemu-system-x86_64 mke2fs busybox numactl; do
    command -v $program > /dev/null && continue
    skip 'a machine with two nodes' "there is no $program: tools/packages.sh numa"
    finish
    exit
done
need "$B/tests/bench/stages" "$B/tests/numa/ahead"

# The kernel, kept in B: the one that the package of that name hangs on.
kernel=${WAN_KERNEL:-$B/numa/vmlinuz}
fetch()
{
    package=$(apt-cache depends linux-image-cloud-amd64 |
        sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)/\1/p' | head -n 1)
    [ -n "$package" ] && mkdir "$tmp/kernel" && cd "$tmp/kernel" &&
        apt-get download "$package" && dpkg-deb -x ./*.deb . && mkdir -p "$B/numa" &&
        cp boot/vmlinuz-* "$B/numa/vmlinuz"
}
[ -f "$kernel" ] || (fetch) > "$tmp/log" 2>&1 || {
    sed 's/^/# /' "$tmp/log"
    skip 'a machine with two nodes' 'no kernel: apt-get download of what linux-image-cloud-amd64 depends on'
    finish
    exit
}

# The disk. copy PROGRAM AS: with its libraries
root=$tmp/root
copy()
{
    cp -L "$1" "$root$2" && for library in $(ldd "$1" | grep -o '/[^ ]*'); do
        mkdir -p "$root$(dirname "$library")" && cp -L "$library" "$root$library" || return 1
    done
}
disk()
{
    header='{"w":{"dtype":"F32","shape":[4096,1024],"data_offsets":[0,16777216]}}'
    mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/tmp" "$root/dev" &&
        cp -rL "$tiny/wan-t2v" "$root/t2v" &&
        { printf "\\$(printf %o ${#header})\\0\\0\\0\\0\\0\\0\\0%s" "$header"; head -c 16777216 /dev/zero; } \
            > "$root/weights.safetensors" &&
        cp "$SRC/tests/numa/init" "$root/init" && chmod +x "$root/init" &&
        cp "$(command -v busybox)" "$root/bin" && copy "$(command -v numactl)" /bin/numactl &&
        copy "$B/tests/bench/stages" /stages && copy "$B/tests/numa/ahead" /ahead &&
        { [ -z "${BEFORE-}" ] || copy "$BEFORE" /before; } &&
        mke2fs -q -t ext4 -d "$root" "$tmp/disk" 512M
}
check 'its disk' disk

timeout 900 qemu-system-x86_64 -accel tcg -cpu max -m 1G -smp 4,sockets=2,cores=2 -display none \
    -object memory-backend-ram,id=m0,size=512M -object memory-backend-ram,id=m1,size=512M \
    -numa node,nodeid=0,cpus=0-1,memdev=m0 -numa node,nodeid=1,cpus=2-3,memdev=m1 \
    -drive "file=$tmp/disk,format=raw,if=none,id=disk" -device nvme,drive=disk,serial=1 \
    -nic none -no-reboot -monitor none -serial stdio -kernel "$kernel" \
    -append 'console=ttyS0 panic=-1 quiet root=/dev/nvme0n1 rw init=/init' < /dev/null > "$tmp/console" 2>&1
tr -d '\r' < "$tmp/console" | grep -a '^case ' | tee "$tmp/cases" | sed 's/^case/#/'

# lies CASE POLICY: its clip was made, with pages under the policy
lies() { has "^case $1: 0 [0-9a-f]+ $2 " "$tmp/cases" || { cat "$tmp/console"; return 1; }; }
# evenly CASE: and each node has two of five of them
evenly()
{
    sed -n "s/^case $1: .* N0=\([0-9]*\) N1=\([0-9]*\) .*/\1 \2/p" "$tmp/cases" |
        awk '{ good = 5 * $1 > 2 * ($1 + $2) && 5 * $2 > 2 * ($1 + $2) } END { exit !good }' ||
        { cat "$tmp/cases"; return 1; }
}
spread() { lies spread interleave:0-1 && evenly spread; }
check 'threads of two nodes: the arena is on both' spread
check 'threads that one node has CPUs for' lies few default
check 'CPUs of one node' lies one-node default
check 'a policy that was chosen' lies chosen prefer:1
ahead() { lies ahead-4 default && evenly ahead-4; }
check 'weights that are read ahead for them are on both' ahead
alone() { lies ahead-2 default && ! evenly ahead-2 > /dev/null; }
check 'and for few threads on one' alone
finish
