#!/bin/sh
# The first process of the virtual machine: mounts what a system mounts, then hands over to what
# the second disk holds.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
# Version 2 alone, as systemd does on Debian 12.
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
ip link set lo up
# A system's own services have loaded these long before; on an emulated processor it takes seconds.
modprobe -a loop btrfs overlay fuse veth bridge tun nf_tables nft_chain_nat nft_masq nft_ct nft_nat \
    nft_reject_inet nft_redir nft_fib_inet nft_connlimit
# As systemd sets it for services.
ulimit -Hn 524288
mkdir -p /payload
mount -t ext4 /dev/nvme1n1 /payload
sh /payload/run
# Only the lines above tell whether that went well.
sync
echo o > /proc/sysrq-trigger
sleep 60
