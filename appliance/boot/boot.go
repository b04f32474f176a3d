// Package boot is PID 1: the boot as an ordered list of named steps, then a watch over the
// daemon, then the shutdown (appliance.md 4 and 9).
//
//	00 mounts    proc, sysfs, devtmpfs, limited tmpfs, cgroup2; consoles
//	02 devices   load modules for the devices that are there
//	03 stick     find the boot medium by its partition type, never by its name
//	04 slots     settings are in memory, decide between the two slots
//	05 lock      write-protect the stick and try to write; detach it
//	06 settings  say what the verification gave
//	07 network   host name, kernel settings, addresses
//	08 time      clock not before the newest known time, time servers
//	09 disks     check and mount the content disks (begun beside 07 and 08)
//	10 seal      modules away, root file system read-only
//	11 files     what the daemon reads, derived from the settings
//	12 daemon    start it and wait for its first health answer
//	13 status    how long it took; the status screen follows
//
// Numbers are those of the design; a step that this release does not have leaves a gap.
//
// A step that cannot do its work leaves a refusal: the boot goes on, so that consoles and
// network can tell what happened, but the daemon is not started. There is no mode in which
// a check is left out.
package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"armarium/appliance/disks"
	"armarium/appliance/media"
	"armarium/appliance/netconf"
	"armarium/appliance/settings"
	"armarium/appliance/supervisor"
	"armarium/appliance/timesync"
	"armarium/daemon/platform"
	"armarium/image/layout"
)

// A Console is where a person looks. Line goes to all consoles, Log to the serial line only,
// Show replaces the screen.
type Console interface {
	Open() error // called when the device nodes are there
	Line(string)
	Log(string)
	Show(string)
	Flush(most time.Duration)
}

const (
	ringSize   = 8 << 20          // bytes of log kept in memory
	panicPause = 10 * time.Second // a person may read the reason before the restart
	lookAgain  = 5 * time.Second  // between looks for a lost stick
	lookMost   = 10 * time.Minute // then the box restarts
	showOften  = 2 * time.Second  // between looks at what is shown
)

// A box is the state of PID 1.
type box struct {
	con      Console
	ring     *supervisor.Ring
	log      *slog.Logger
	kmsg     *os.File
	children *supervisor.Children
	started  time.Time
	changed  chan struct{} // devices came or went
	buttons  chan struct{} // the same, for the watch over buttons
	power    chan int      // a unix.LINUX_REBOOT_CMD_…: what to do at the end
	stopAll  context.CancelFunc
	workers  sync.WaitGroup

	info    layout.Info
	cmdline string
	mods    *modules
	memory  uint64

	// Set by steps, read by State: under mu.
	mu       sync.Mutex
	steps    []platform.Step
	reasons  []refusal
	warnings []string
	stick    *media.Stick
	choice   settings.Choice
	lock     string
	lockNote string
	claims   []disks.Claim
	net      *netconf.Network
	clock    *timesync.Sync
	sup      *supervisor.Supervisor

	disksProbed chan struct{} // closed when superblocks were read
	disksDone   chan struct{} // closed when claims are prepared
	newest      time.Time     // last write to a content disk
}

// Main is PID 1. It returns only when it may not run.
func Main(con Console) error {
	if os.Getpid() != 1 {
		return errors.New("init is started by the kernel as process 1 and does nothing otherwise")
	}
	b := &box{con: con, ring: supervisor.NewRing(ringSize), children: supervisor.NewChildren(), started: time.Now(),
		changed: make(chan struct{}, 1), buttons: make(chan struct{}, 1), power: make(chan int, 1),
		disksProbed: make(chan struct{}), disksDone: make(chan struct{}), lock: media.None,
		choice: settings.Choice{Verdict: settings.NotConfigured}}
	b.log = slog.New(slog.NewTextHandler(&supervisor.LineWriter{Line: func(l string) { b.logLine("init", l) }}, nil))
	defer b.guard()
	ctx, cancel := context.WithCancel(context.Background())
	b.stopAll = cancel
	b.run(ctx)
	return nil
}

// run boots, waits for an end, and ends.
func (b *box) run(ctx context.Context) {
	// Ctrl-Alt-Del comes as SIGINT instead of an immediate reset.
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	b.ignoreFault(os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0))
	sig := make(chan os.Signal, 4)
	signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	b.worker(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-sig:
				switch s {
				case syscall.SIGTERM:
					b.end(unix.LINUX_REBOOT_CMD_POWER_OFF)
				case syscall.SIGINT:
					b.end(unix.LINUX_REBOOT_CMD_RESTART)
				}
			}
		}
	})
	bootCtx, stopBoot := context.WithCancel(ctx)
	b.worker(func() {
		runSteps(bootCtx, b.list(ctx), b.report)
		if bootCtx.Err() == nil {
			b.watchScreen(ctx)
		}
	})
	cmd := <-b.power
	stopBoot()
	b.shutdown(cmd)
}

// list is the boot. Steps start workers with ctx, which lives until the shutdown; the
// context a step is given ends at its deadline.
func (b *box) list(ctx context.Context) []step {
	return []step{
		{0, "mounts", 2 * time.Second, func(context.Context) (string, error) { return b.mounts(ctx) }},
		{2, "devices", 60 * time.Second, b.devices},
		{3, "stick", 0, b.findStick},
		{4, "slots", 10 * time.Second, b.readSlots},
		{5, "lock", 5 * time.Second, func(context.Context) (string, error) { return b.lockStick(ctx) }},
		{6, "settings", time.Second, b.verify},
		{7, "network", 60 * time.Second, func(step context.Context) (string, error) { return b.network(ctx, step) }},
		{8, "time", 20 * time.Second, func(step context.Context) (string, error) { return b.time(ctx, step) }},
		{9, "disks", 0, b.disks},
		{10, "seal", 5 * time.Second, func(context.Context) (string, error) { return b.seal(ctx) }},
		{11, "files", time.Second, func(context.Context) (string, error) { return b.files(ctx) }},
		{12, "daemon", 120 * time.Second, func(step context.Context) (string, error) { return b.daemon(ctx, step) }},
		{13, "status", time.Second, b.status},
	}
}

// worker runs f beside the boot. A panic anywhere restarts the box in order.
func (b *box) worker(f func()) {
	b.workers.Go(func() {
		defer b.guard()
		f()
	})
}

// guard turns a panic into a message and a restart. Without it the kernel would restart the
// box as well, but nobody could read why, and disks would not be synced.
func (b *box) guard() {
	r := recover()
	if r == nil {
		return
	}
	b.con.Line(fmt.Sprintf("ALARM: fault inside init, restart in %.0f s: %v", panicPause.Seconds(), r))
	for line := range strings.Lines(string(debug.Stack())) {
		b.con.Log(strings.TrimRight(line, "\n"))
	}
	unix.Sync()
	b.con.Flush(panicPause)
	time.Sleep(panicPause)
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// end asks for the shutdown; the first wish counts.
func (b *box) end(cmd int) {
	select {
	case b.power <- cmd:
	default:
	}
}

// report shows a step that is done and keeps it for the status.
func (b *box) report(s platform.Step) {
	b.mu.Lock()
	b.steps = append(b.steps, s)
	b.mu.Unlock()
	line := stepLine(s)
	b.con.Line(line)
	b.keep(line)
}

// keep puts a line into the log in memory and the kernel's.
func (b *box) keep(line string) {
	b.ring.Add(line)
	if b.kmsg != nil {
		level := 6
		if strings.Contains(line, "FAILED") || strings.HasPrefix(line, "ALARM") {
			level = 4 // not shown again on the consoles, which get it from us
		}
		fmt.Fprintf(b.kmsg, "<%d>armarium: %s\n", level, line)
	}
}

// logLine takes a line of the log of init or the daemon.
func (b *box) logLine(from, line string) {
	b.ring.Add(from + ": " + line)
	b.con.Log(from + ": " + shortLog(line))
}

// ignoreFault logs a fault that changes nothing for the operator.
func (b *box) ignoreFault(err error) {
	if err != nil {
		b.log.Warn("boot", "err", err)
	}
}

func (b *box) refuse(r refusal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.reasons, r) {
		b.reasons = append(b.reasons, r)
	}
}

func (b *box) warn(todo string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.warnings = append(b.warnings, todo)
}

func (b *box) refused() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.reasons) > 0
}

// sealed gives the settings, nil when there are none to use.
func (b *box) sealed() *settings.Sealed {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.choice.Sealed
}

// State is what the console, the daemon and its pages are told.
func (b *box) State() platform.State {
	b.mu.Lock()
	s := platform.State{Version: b.info.Version, Image: b.info.ImageID, Settings: string(b.choice.Verdict),
		Lock: b.lock, LockNote: b.lockNote, Uptime: time.Since(b.started), Booted: time.Now().Add(-time.Since(b.started)),
		Steps: slices.Clone(b.steps), Daemon: platform.Daemon{State: supervisor.Off}}
	claims, net, clock, sup := slices.Clone(b.claims), b.net, b.clock, b.sup
	reasons, warnings := slices.Clone(b.reasons), slices.Clone(b.warnings)
	sealed := b.choice.Sealed
	b.mu.Unlock()

	if b.info.Debug {
		s.Version += ", DEBUG IMAGE"
	}
	if net != nil {
		n := net.State()
		s.Network = platform.Network{State: "waiting", Kind: n.Kind, Interface: n.Interface, Addresses: n.Addresses,
			Gateway: n.Gateway, DNS: n.DNS, Note: n.Note}
		if n.Up {
			s.Network.State = "up"
		}
	}
	if sealed != nil {
		s.Host, s.Seal, s.Node = sealed.Hostname(), sealed.Code, sealed.Appliance.NodeID
		if sup != nil {
			s.UI = uiAddress(s.Network.Addresses, sealed.UIPort())
		}
	}
	if clock != nil {
		s.Time = platform.Time(clock.State())
	} else {
		s.Time = platform.Time{State: timesync.Unverified, Source: "hardware clock"}
	}
	for _, c := range claims {
		s.Disks = append(s.Disks, diskState(c))
	}
	if sup != nil {
		s.Daemon = platform.Daemon(sup.State())
	}
	describe(&s, reasons, warnings)
	return s
}

// status is step 13: the result of the boot.
func (b *box) status(context.Context) (string, error) {
	word := "up"
	if b.State().Daemon.State == supervisor.Healthy {
		word = "ready"
	}
	return fmt.Sprintf("%s in %.1f s", word, uptime().Seconds()), nil
}

// watchScreen shows the status screen, and again whenever it changes, until ctx ends.
func (b *box) watchScreen(ctx context.Context) {
	shown := ""
	t := time.NewTicker(showOften)
	defer t.Stop()
	for {
		if text := Screen(b.State()); text != shown {
			b.con.Show(text)
			shown = text
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// uptime is the time since the kernel started.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// shutdown ends everything in order: the daemon, with 20 s to finish, then disks, then the
// machine.
func (b *box) shutdown(cmd int) {
	word := "power off"
	if cmd == unix.LINUX_REBOOT_CMD_RESTART {
		word = "restart"
	}
	b.con.Line("Shutting down for " + word + ": the daemon is asked to end …")
	b.stopAll()
	done := make(chan struct{})
	go func() { b.workers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		b.con.Line("Shutting down: something does not end, going on without it")
	}
	unix.Sync()
	b.mu.Lock()
	claims := b.claims
	b.mu.Unlock()
	for _, c := range claims {
		if c.Mount == "" {
			continue
		}
		if err := unix.Unmount(c.Mount, 0); err != nil {
			err2 := unix.Mount("", c.Mount, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
			b.con.Line(fmt.Sprintf("Shutting down: %s is busy (%v), made read-only: %v", c.Mount, err, err2 == nil))
		} else {
			b.con.Line("Shutting down: " + c.Mount + " unmounted")
		}
	}
	b.ignoreFault(unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	unix.Sync()
	b.con.Line("Shutting down: " + word)
	b.con.Flush(2 * time.Second)
	err := unix.Reboot(cmd)
	b.con.Line(fmt.Sprintf("the machine does not %s: %v", word, err))
	time.Sleep(panicPause)
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
