package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"armarium/appliance/disks"
	"armarium/appliance/netconf"
	"armarium/appliance/settings"
	"armarium/appliance/supervisor"
	"armarium/appliance/timesync"
	"armarium/daemon/platform"
	"armarium/image/gpt"
	"armarium/image/layout"
)

// network is step 07: names, kernel settings, addresses. It waits for the first address.
// The disks are begun here too, because they take the longest.
func (b *box) network(ctx, step context.Context) (string, error) {
	b.startDisks(ctx)
	b.ignoreFault(setSysctls("/proc/sys"))
	c := netconf.Config{Settings: settings.Network{Mode: settings.DHCP}, ResolvConf: links["/etc/resolv.conf"],
		Hosts: links["/etc/hosts"], Log: b.log}
	if s := b.sealed(); s != nil {
		c.Settings, c.Hostname = s.Appliance.Network, s.Hostname()
		if err := unix.Sethostname([]byte(c.Hostname[:min(len(c.Hostname), 64)])); err != nil {
			b.log.Warn("host name", "err", err)
		}
	}
	if err := netconf.Loopback(); err != nil {
		return "", err
	}
	n := netconf.New(c)
	b.mu.Lock()
	b.net = n
	b.mu.Unlock()
	b.worker(func() { b.ignoreFault(notCanceled(n.Run(ctx))) })
	select {
	case <-n.Ready():
	case <-step.Done():
		return "", note("no address yet, going on: " + n.State().Note)
	}
	st := n.State()
	text := fmt.Sprintf("%s, %s", strings.Join(st.Addresses, " "), st.Kind)
	if s := b.sealed(); s != nil && !hasAddress(st.Addresses, s.Config["LOCKSS_IPADDR"]) {
		b.warn(fmt.Sprintf("The box has the address %s, the settings say %s: let the DHCP server give that one, or seal new settings.",
			strings.Join(st.Addresses, " "), s.Config["LOCKSS_IPADDR"]))
	}
	return text, nil
}

func hasAddress(have []string, want string) bool {
	for _, a := range have {
		if ip, _, _ := strings.Cut(a, "/"); ip == want {
			return true
		}
	}
	return false
}

// time is step 08.
func (b *box) time(ctx, step context.Context) (string, error) {
	select {
	case <-b.disksProbed:
	case <-step.Done():
	}
	b.mu.Lock()
	floor := timesync.Floor(time.Unix(b.info.Built, 0), b.newest)
	b.mu.Unlock()
	c := timesync.Config{Floor: floor, Clock: timesync.SystemClock{}, Log: b.log}
	if s := b.sealed(); s != nil {
		c.Servers = s.Appliance.NTPServers
	}
	t := timesync.New(c)
	b.mu.Lock()
	b.clock = t
	b.mu.Unlock()
	raised, err := t.RaiseToFloor()
	if err != nil {
		return "", err
	}
	b.worker(func() { b.ignoreFault(notCanceled(t.Run(ctx))) })
	if len(c.Servers) > 0 {
		select {
		case <-t.Ready():
		case <-step.Done():
		}
	}
	st := t.State()
	text := fmt.Sprintf("%s, %s, now %s", st.State, st.Source, time.Now().UTC().Format(time.DateTime))
	if raised || st.State != timesync.Verified {
		return "", note(text)
	}
	return text, nil
}

// settle is how long no new device may have appeared before a missing disk counts as
// missing; settleMost bounds the wait.
const (
	settle     = 2 * time.Second
	settleMost = 20 * time.Second
)

// startDisks begins to look for, check and mount the content disks. Without settings the
// disks are only listed.
func (b *box) startDisks(ctx context.Context) {
	b.worker(func() {
		defer close(b.disksDone)
		sealed := b.sealed()
		if b.mods != nil {
			b.ignoreFault(b.mods.load("ext4", "crc32c_intel", "crc32c_generic"))
		}
		var mounts []string
		may := func(string) bool { return false }
		if sealed != nil && !b.refused() {
			mounts, may = sealed.Mounts(), sealed.BlankDisk
		}
		for _, m := range mounts {
			if err := os.MkdirAll(m, 0o555); err != nil {
				b.log.Error("mount point", "err", err)
			}
		}
		claims := b.planDisks(ctx, mounts, may)
		b.mu.Lock()
		b.claims = claims
		b.mu.Unlock()
		close(b.disksProbed)
		if len(mounts) == 0 {
			return
		}
		k := &disks.Keeper{
			Run: b.children.Run, Mount: unix.Mount, Unmount: unix.Unmount,
			Progress: func(m string, since time.Duration) {
				b.con.Line(fmt.Sprintf("     checking %s, %.0f s", m, since.Seconds()))
			},
			NodeID: sealed.Appliance.NodeID, UID: sealed.Appliance.DaemonUID, GID: sealed.Appliance.DaemonGID,
		}
		for i, c := range claims {
			if ctx.Err() != nil {
				return
			}
			c = k.Prepare(ctx, c)
			b.mu.Lock()
			b.claims[i] = c
			b.mu.Unlock()
		}
	})
}

// planDisks looks until every mount point has its disk, or nothing new has come for a while.
func (b *box) planDisks(ctx context.Context, mounts []string, may func(string) bool) []disks.Claim {
	stick, err := gpt.ParseGUID(layout.ConfigType)
	if err != nil {
		b.log.Error("disks", "err", err)
		return nil
	}
	start, last, count := time.Now(), time.Now(), -1
	for {
		b.plugMore()
		found, err := disks.Probe("/sys", "/dev", stick)
		if err != nil {
			b.log.Error("disks", "err", err)
		}
		found = slices.DeleteFunc(found, func(d disks.Device) bool { return b.stick != nil && d.Place == b.stick.Place })
		if len(found) != count {
			count, last = len(found), time.Now()
		}
		b.mu.Lock()
		b.newest = disks.Newest(found)
		b.mu.Unlock()
		claims := disks.Plan(mounts, found, may)
		missing := false
		for _, c := range claims {
			missing = missing || c.State == disks.Missing || c.Format
		}
		if !missing || time.Since(last) >= settle || time.Since(start) >= settleMost || ctx.Err() != nil {
			return claims
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// disks is step 09: the outcome of what step 07 began.
func (b *box) disks(ctx context.Context) (string, error) {
	select {
	case <-b.disksDone:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	var text []string
	ok, bad := 0, 0
	b.mu.Lock()
	claims := b.claims
	b.mu.Unlock()
	for _, c := range claims {
		if c.Mount == "" {
			continue
		}
		t := c.Mount + " " + c.State
		if c.Note != "" {
			t += " (" + c.Note + ")"
		}
		text = append(text, t)
		if c.State == disks.OK {
			ok++
		} else {
			bad++
		}
	}
	if b.sealed() == nil || b.refused() {
		return "", note(fmt.Sprintf("%d found, none mounted", len(claims)))
	}
	if ok == 0 {
		b.refuse(refuseNoDisk)
		return "", errors.New(strings.Join(text, ", "))
	}
	if bad > 0 {
		return "", note(strings.Join(text, ", "))
	}
	return strings.Join(text, ", "), nil
}

// seal is step 10. Modules for what may be plugged in later are loaded before they go; a
// minute after, the kernel takes no more at all.
func (b *box) seal(ctx context.Context) (string, error) {
	if b.mods != nil {
		b.ignoreFault(b.mods.load("button", "evdev", "usbhid", "hid_generic", "sd_mod", "usb_storage", "uas"))
		b.plugMore()
	}
	b.worker(func() {
		watchButtons(ctx, "/sys", "/dev", b.buttons, func() {
			b.con.Line("Power button pressed")
			b.end(unix.LINUX_REBOOT_CMD_POWER_OFF)
		})
	})
	b.mods = nil
	if err := sealRoot(); err != nil {
		return "", err
	}
	b.worker(func() {
		select {
		case <-ctx.Done():
		case <-time.After(time.Minute):
			b.ignoreFault(os.WriteFile("/proc/sys/kernel/modules_disabled", []byte("1"), 0))
		}
	})
	return "root read-only", nil
}

const (
	platformFile   = settings.RunDir + "/local.txt"
	platformSocket = settings.RunDir + "/platform.sock"
	keysDir        = "/run/keys"
	daemonProgram  = "/bin/armariumd"
)

// files is step 11: what the daemon reads, and its line to us.
func (b *box) files(ctx context.Context) (string, error) {
	s := b.sealed()
	if s == nil {
		return "", note("none without settings")
	}
	uid, gid := s.Appliance.DaemonUID, s.Appliance.DaemonGID
	// The daemon reads it and owns it not: who could write it could let himself in.
	err := give(platformFile, s.PlatformFile(), 0o440, 0, gid)
	if err == nil {
		err = os.MkdirAll(keysDir, 0o700)
	}
	if err == nil {
		err = os.Chown(keysDir, uid, gid)
	}
	for name, key := range s.Keys {
		if err == nil {
			err = give(filepath.Join(keysDir, name), key, 0o600, uid, gid)
		}
	}
	if err == nil {
		err = os.Chown(settings.RunDir+"/log", uid, gid)
	}
	if err == nil {
		err = b.listen(ctx, uid, gid)
	}
	if err != nil {
		b.refuse(refuseStart)
		return "", err
	}
	return platformFile, nil
}

// give writes a file of the daemon.
func give(path string, data []byte, mode fs.FileMode, uid, gid int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chown(uid, gid), f.Chmod(mode), f.Close())
}

// listen opens the line to the daemon, which only the daemon's user may use.
func (b *box) listen(ctx context.Context, uid, gid int) error {
	l, err := net.Listen("unix", platformSocket)
	if err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(platformSocket, 0o600), os.Chown(platformSocket, uid, gid)); err != nil {
		l.Close()
		return err
	}
	b.worker(func() { b.ignoreFault(notCanceled(platform.Serve(ctx, l, b.State))) })
	return nil
}

// daemon is step 12.
func (b *box) daemon(ctx, step context.Context) (string, error) {
	s := b.sealed()
	if s == nil || b.refused() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.reasons) == 0 {
			return "", note("not started")
		}
		return "", note("not started: " + b.reasons[0].sentence)
	}
	tmp, err := b.tmpDir(s)
	if err != nil {
		b.refuse(refuseStart)
		return "", err
	}
	group, err := daemonGroup(b.memory)
	if err != nil {
		b.log.Warn("daemon without limits", "err", err)
	}
	port := s.UIPort()
	sup := supervisor.New(supervisor.Config{
		Start:  func() (supervisor.Process, error) { return b.startDaemon(s, tmp, group) },
		Health: func(ctx context.Context) error { return askHealth(ctx, port) },
		Log:    b.log,
	})
	b.mu.Lock()
	b.sup = sup
	b.mu.Unlock()
	b.worker(func() { b.ignoreFault(notCanceled(sup.Run(ctx))) })
	select {
	case <-sup.WasHealthy():
		return "healthy", nil
	case <-step.Done():
		st := sup.State()
		return "", note(fmt.Sprintf("%s, no health answer yet; started %d times, last end: %s", st.State, st.Starts, st.LastExit))
	}
}

// tmpDir makes the daemon's temporary directory, empty when the settings say so. It is made
// through a root, because on a disk of the daemon's any part of the path may be a link.
func (b *box) tmpDir(s *settings.Sealed) (string, error) {
	dir := s.TmpDir()
	if dir == "/tmp" {
		return dir, nil
	}
	b.mu.Lock()
	claims := b.claims
	b.mu.Unlock()
	for pass := range 2 {
		for _, c := range claims {
			rel, ok := strings.CutPrefix(dir, c.Mount+"/")
			if pass == 1 {
				// The disk that the settings name is not there: another one serves.
				rel, ok = "gamma/tmp", true
			}
			if !ok || c.Mount == "" || c.State != disks.OK {
				continue
			}
			root, err := os.OpenRoot(c.Mount)
			if err != nil {
				return "", fmt.Errorf("temporary directory: %w", err)
			}
			defer root.Close()
			if s.ClearTmpDir() {
				if err := root.RemoveAll(rel); err != nil {
					return "", fmt.Errorf("empty temporary directory: %w", err)
				}
			}
			if err := root.MkdirAll(rel, 0o700); err != nil {
				return "", fmt.Errorf("temporary directory: %w", err)
			}
			if err := root.Lchown(rel, s.Appliance.DaemonUID, s.Appliance.DaemonGID); err != nil {
				return "", fmt.Errorf("temporary directory: %w", err)
			}
			return filepath.Join(c.Mount, rel), nil
		}
	}
	return "", errors.New("temporary directory: no writable disk")
}

// startDaemon starts the daemon through the spawn step.
func (b *box) startDaemon(s *settings.Sealed, tmp, group string) (supervisor.Process, error) {
	args := []string{SpawnWord, strconv.Itoa(s.Appliance.DaemonUID), strconv.Itoa(s.Appliance.DaemonGID), daemonProgram}
	args = append(args, s.DaemonArgs()...)
	args = append(args, "-p", platformFile, "--platform", platformSocket)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Dir = "/"
	cmd.Env = []string{"TMPDIR=" + tmp, "HOME=" + tmp, "PATH="}
	if b.memory > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("GOMEMLIMIT=%d", b.memory*6/10))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if group != "" {
		fd, err := unix.Open(group, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("control group: %w", err)
		}
		defer unix.Close(fd)
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
	}
	w := &supervisor.LineWriter{Line: func(l string) { b.logLine("daemon", l) }}
	cmd.Stdout, cmd.Stderr = w, w // the same writer: one goroutine copies both
	if err := b.children.Start(cmd); err != nil {
		return nil, err
	}
	return &process{b.children, cmd}, nil
}

type process struct {
	children *supervisor.Children
	cmd      *exec.Cmd
}

func (p *process) PID() int                      { return p.cmd.Process.Pid }
func (p *process) Wait() string                  { return p.children.Wait(p.cmd) }
func (p *process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// askHealth asks the daemon over the loopback interface.
func askHealth(ctx context.Context, port int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/api/v1/health", port), nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("health: answer %s", resp.Status)
	}
	return nil
}
