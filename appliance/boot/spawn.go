package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// SpawnWord is the first argument of PID 1's program when it is not PID 1 but the small step
// between PID 1 and the daemon:
//
//	/init spawn UID GID PROGRAM ARGUMENTS…
const SpawnWord = "spawn"

// Limits of the daemon.
const (
	daemonFiles  = 65536
	daemonScore  = "500" // of the out-of-memory killer: the daemon goes before PID 1
	lastCap      = 63    // highest capability number a kernel can have
	daemonUmask  = 0o027
	cgroupDaemon = "/sys/fs/cgroup/daemon"
)

// Spawn gives up every right and becomes the daemon. It returns only on failure.
func Spawn(args []string) error {
	if len(args) < 3 {
		return errors.New("spawn: want UID GID PROGRAM ARGUMENTS")
	}
	uid, err1 := strconv.Atoi(args[0])
	gid, err2 := strconv.Atoi(args[1])
	if err1 != nil || err2 != nil || uid <= 0 || gid <= 0 {
		return fmt.Errorf("spawn: %s and %s are no unprivileged user and group", args[0], args[1])
	}
	// What follows belongs to a thread, and exec keeps the rights of the thread that calls it.
	runtime.LockOSThread()
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(daemonScore), 0); err != nil {
		return fmt.Errorf("spawn: %w", err)
	}
	unix.Umask(daemonUmask)
	for _, l := range []struct {
		what  int
		value uint64
	}{{unix.RLIMIT_NOFILE, daemonFiles}, {unix.RLIMIT_CORE, 0}, {unix.RLIMIT_MEMLOCK, 64 << 10}} {
		if err := syscall.Setrlimit(l.what, &syscall.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return fmt.Errorf("spawn: limit %d: %w", l.what, err)
		}
	}
	for c := range uintptr(lastCap + 1) {
		// EINVAL: above the last capability of this kernel.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("spawn: drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("spawn: ambient capabilities: %w", err)
	}
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("spawn: groups: %w", err)
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("spawn: group: %w", err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("spawn: user: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("spawn: no new privileges: %w", err)
	}
	return fmt.Errorf("spawn %s: %w", args[2], unix.Exec(args[2], args[2:], os.Environ()))
}

// daemonGroup makes the control group of the daemon, with limits of memory and processes,
// and gives its directory. Memory beyond the limit ends the daemon, not the box.
func daemonGroup(memory uint64) (string, error) {
	const spare = 96 << 20 // for kernel, root file system and PID 1
	if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory +pids"), 0); err != nil {
		return "", fmt.Errorf("control groups: %w", err)
	}
	if err := os.Mkdir(cgroupDaemon, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("control groups: %w", err)
	}
	limits := map[string]string{"pids.max": "4096"}
	if memory > 2*spare {
		limits["memory.max"] = strconv.FormatUint(memory-spare, 10)
	}
	for name, v := range limits {
		if err := os.WriteFile(filepath.Join(cgroupDaemon, name), []byte(v), 0); err != nil {
			return "", fmt.Errorf("control groups: %w", err)
		}
	}
	return cgroupDaemon, nil
}
