# Enter a root of its own, in a fresh namespace: everything of the machine's, and /kaggle, whose input is read-only as on
# Kaggle. Called with the folder for the root, the one to be /kaggle, a Python, and its arguments.
set -e
root=$1; kaggle=$2; python=$3; shift 2
mount -t tmpfs tmpfs "$root"
for entry in /*; do
  if [ "$entry" = /kaggle ]; then continue
  elif [ -L "$entry" ]; then cp -P "$entry" "$root$entry"
  elif [ -d "$entry" ]; then mkdir "$root$entry"; mount --rbind "$entry" "$root$entry"
  else touch "$root$entry"; mount --bind "$entry" "$root$entry"
  fi
done
mkdir "$root/kaggle"
mount --bind "$kaggle" "$root/kaggle"
mount --bind "$kaggle/input" "$root/kaggle/input"
mount -o remount,bind,ro "$root/kaggle/input"
# Sockets to this machine itself work on Kaggle too: raise the loopback interface (SIOCSIFFLAGS, up and running).
"$python" -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 0x49))'
exec chroot "$root" /bin/sh -c 'cd /kaggle/working; exec "$@"' sh "$@"
