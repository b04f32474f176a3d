package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mounts are the file systems of step 00, in order.
var mounts = []struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "size=32m,nr_inodes=16k,mode=0755"},
	{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "size=25%,nr_inodes=64k,mode=1777"},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
}

func mountAll() error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil && !(m.fstype == "devtmpfs" && errors.Is(err, unix.EBUSY)) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

// links are the files of /etc that programs read and PID 1 writes in /run.
var links = map[string]string{
	"/etc/resolv.conf": "/run/resolv.conf",
	"/etc/hosts":       "/run/hosts",
}

func makeLinks() error {
	for at, to := range links {
		if have, err := os.Readlink(at); err == nil && have == to {
			continue
		}
		os.Remove(at)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return fmt.Errorf("link %s: %w", at, err)
		}
		if err := os.Symlink(to, at); err != nil {
			return fmt.Errorf("link %s: %w", at, err)
		}
	}
	return nil
}

// sysctls close what the box never needs (appliance.md 10). Not every kernel has all.
var sysctls = []struct{ name, value string }{
	{"kernel/kexec_load_disabled", "1"}, {"kernel/kptr_restrict", "2"}, {"kernel/dmesg_restrict", "1"},
	{"kernel/unprivileged_bpf_disabled", "1"}, {"kernel/perf_event_paranoid", "3"},
	{"kernel/yama/ptrace_scope", "3"}, {"user/max_user_namespaces", "0"}, {"kernel/sysrq", "0"},
	{"kernel/core_pattern", ""}, {"kernel/modprobe", ""},
	{"fs/protected_symlinks", "1"}, {"fs/protected_hardlinks", "1"}, {"fs/protected_fifos", "2"},
	{"fs/protected_regular", "2"}, {"fs/suid_dumpable", "0"},
	{"net/ipv4/conf/all/rp_filter", "1"}, {"net/ipv4/conf/default/rp_filter", "1"},
	{"net/ipv4/tcp_syncookies", "1"}, {"net/ipv4/conf/all/accept_redirects", "0"},
	{"net/ipv4/conf/all/send_redirects", "0"}, {"net/ipv4/conf/all/accept_source_route", "0"},
}

// setSysctls sets them all below root, "/proc/sys", and names those that could not be set.
func setSysctls(root string) error {
	var failed []string
	for _, s := range sysctls {
		err := os.WriteFile(filepath.Join(root, s.name), []byte(s.value+"\n"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = append(failed, s.name)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("not set: %s", strings.Join(failed, " "))
	}
	return nil
}

// memTotal is the memory of the machine in bytes, from /proc/meminfo.
func memTotal(meminfo []byte) uint64 {
	for line := range strings.Lines(string(meminfo)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			if f := strings.Fields(rest); len(f) == 2 && f[1] == "kB" {
				n, _ := strconv.ParseUint(f[0], 10, 64)
				return n << 10
			}
		}
	}
	return 0
}

// sealRoot makes the system in RAM unchangeable: modules away, root read-only.
func sealRoot() error {
	if err := os.RemoveAll("/lib/modules"); err != nil {
		return fmt.Errorf("remove modules: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make root read-only: %w", err)
	}
	err := os.WriteFile("/.probe", nil, 0o600)
	if !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("make root read-only: it still takes files (%v)", err)
	}
	return nil
}
