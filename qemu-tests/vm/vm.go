// Package vm drives QEMU machines in a few verbs: start, expect, type, press the power
// button, cut the power, plug and unplug a disk. Tests and the demo use it.
//
//	m, err := vm.Start(ctx, vm.Config{Dir: t.TempDir(), Image: "armarium.img", Memory: 512})
//	defer m.Close()
//	_, err = m.Expect(ctx, `ready in ([0-9.]+) s`)
//
// A machine has one virtual CPU, emulated in one thread: two in the multi-threaded mode have
// crashed kernels. Serial console and control socket are inherited descriptors, so nothing
// of a machine lies outside its folder and no path can be too long. Host ports are chosen by
// the system. QEMU runs in its own process group and dies with the program that started it.
//
// What the machine writes on its serial line is kept as text without carriage returns and
// escape sequences; the same text with times is the file serial.log of its folder.
package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrOff means that the machine went off while something was waited for.
var ErrOff = errors.New("the machine is off")

// Config describes a machine.
type Config struct {
	Dir string // for logs and the copy of firmware variables; required, must exist

	// The stick: a raw image as USB storage on an xHCI controller, and the boot device.
	Image    string
	Writable bool // the stick can be written; otherwise it has its write lock set

	// Direct boot of a kernel, without firmware: for fast tests.
	Kernel, Initrd, Append string

	BIOS      bool   // start the stick with a legacy BIOS instead of UEFI
	Firmware  string // UEFI code; default: the one of the ovmf package
	Variables string // UEFI variables, copied; default: the ones of the ovmf package

	Memory  int       // MiB, default 512
	Disks   []Disk    // content disks
	Forward []int     // TCP ports of the machine to make reachable on loopback, see Port
	Fixed   []Fixed   // TCP ports of the machine to make reachable at given addresses
	Mcast   string    // "230.0.0.1:4711": a second network shared with machines that name the same; loopback only
	NoNet   bool      // no user-mode network
	NIC     string    // QEMU's name of the network card, default virtio-net-pci
	Clock   time.Time // real-time clock at start; zero: the host's
	CPU     string    // QEMU's name; default qemu64 with a few additions, host with KVM
	KVM     bool      // use hardware acceleration when ProbeKVM succeeds
	Extra   []string  // more arguments for QEMU
}

// Fixed makes a TCP port of the machine reachable at one address of the host.
type Fixed struct {
	Host  netip.AddrPort
	Guest int
}

// Disk is a disk of a machine.
type Disk struct {
	ID       string // for Plug and Unplug; default disk0, disk1 …
	Path     string
	Bus      string // virtio (default), ahci or usb
	Serial   string
	Format   string // raw (default) or qcow2
	ReadOnly bool
}

// Match is what Expect found.
type Match struct {
	Text   string
	Groups []string      // of the pattern, from 1
	At     time.Duration // since the start of the machine, when its last byte had come
}

// Machine is a running machine. Its methods may be called from several goroutines, but only
// one of them at a time should Expect.
type Machine struct {
	dir     string
	cmd     *exec.Cmd
	start   time.Time
	serial  net.Conn
	qmp     *qmp
	forward []int
	done    chan struct{} // closed when QEMU has ended
	exit    error         // valid then

	mu     sync.Mutex
	text   []byte        // serial output, cleaned
	marks  []mark        // when it came
	pos    int           // where Expect goes on
	more   chan struct{} // closed and replaced when text grows
	closed bool
}

type mark struct {
	end int
	at  time.Duration
}

// maxText bounds the transcript in memory, in bytes: a kernel that prints for ever.
const maxText = 64 << 20

// Start starts a machine. ctx bounds the start only; Close ends the machine.
func Start(ctx context.Context, c Config) (*Machine, error) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, errors.New("qemu-system-x86_64 is missing: run make setup")
	}
	args, err := c.arguments(ctx)
	if err != nil {
		return nil, err
	}
	serial, serialFile, err := pair("serial")
	if err != nil {
		return nil, err
	}
	defer serialFile.Close() // early returns; a second Close does nothing
	control, controlFile, err := pair("control")
	if err != nil {
		serial.Close()
		return nil, err
	}
	defer controlFile.Close()

	m := &Machine{dir: c.Dir, serial: serial, forward: c.Forward, done: make(chan struct{}), more: make(chan struct{})}
	log, err := os.Create(filepath.Join(c.Dir, "serial.log"))
	if err != nil {
		serial.Close()
		control.Close()
		return nil, err
	}
	complaints, err := os.Create(filepath.Join(c.Dir, "qemu.log"))
	if err != nil {
		log.Close()
		serial.Close()
		control.Close()
		return nil, err
	}
	m.cmd = exec.Command(qemu, args...)
	m.cmd.ExtraFiles = []*os.File{serialFile, controlFile} // descriptors 3 and 4
	m.cmd.Stdout, m.cmd.Stderr = complaints, complaints
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	started := make(chan error)
	go func() {
		// The death signal comes when the thread that started QEMU ends: keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer complaints.Close()
		m.start = time.Now()
		if err := m.cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		m.exit = m.cmd.Wait()
		close(m.done)
	}()
	err = <-started
	// Only QEMU holds its ends now: they close when it ends.
	serialFile.Close()
	controlFile.Close()
	if err != nil {
		log.Close()
		serial.Close()
		control.Close()
		return nil, fmt.Errorf("start %s: %w", qemu, err)
	}
	go m.listen(log)
	if m.qmp, err = openQMP(ctx, control, m.done); err != nil {
		m.Close()
		said, _ := os.ReadFile(complaints.Name()) // only makes the error better
		return nil, fmt.Errorf("start machine: %w: %s", err, bytes.TrimSpace(said))
	}
	return m, nil
}

// pair makes two connected sockets, one of them for a child.
func pair(name string) (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("%s socket: %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	defer ours.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("%s socket: %w", name, err)
	}
	return c, theirs, nil
}

func (c Config) arguments(ctx context.Context) ([]string, error) {
	if c.Dir == "" {
		return nil, errors.New("machine needs a folder")
	}
	if c.Memory == 0 {
		c.Memory = 512
	}
	a := []string{"-nodefaults", "-display", "none", "-vga", "std", "-machine", "q35", "-smp", "1", "-m", strconv.Itoa(c.Memory),
		"-chardev", "socket,id=serial,fd=3", "-serial", "chardev:serial",
		"-chardev", "socket,id=control,fd=4", "-mon", "chardev=control,mode=control",
		"-device", "virtio-rng-pci", "-device", "qemu-xhci,id=usb"}
	if c.KVM && ProbeKVM(ctx) == nil {
		a = append(a, "-accel", "kvm", "-cpu", or(c.CPU, "host"))
	} else {
		// What every machine of the last ten years has; "max" emulates much that is slow.
		a = append(a, "-accel", "tcg,thread=single", "-cpu", or(c.CPU, "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+rdrand,+x2apic"))
	}
	if !c.Clock.IsZero() {
		a = append(a, "-rtc", "base="+c.Clock.UTC().Format("2006-01-02T15:04:05"))
	}
	switch {
	case c.Kernel != "":
		a = append(a, "-kernel", c.Kernel, "-append", c.Append)
		if c.Initrd != "" {
			a = append(a, "-initrd", c.Initrd)
		}
	case !c.BIOS:
		code, vars, err := c.firmware()
		if err != nil {
			return nil, err
		}
		a = append(a, "-drive", "if=pflash,format=raw,readonly=on,file="+quote(code), "-drive", "if=pflash,format=raw,file="+quote(vars))
	}
	if c.Image != "" {
		a = append(a, "-drive", "if=none,id=stick-image,format=raw,readonly="+onOff(!c.Writable)+",file="+quote(c.Image),
			"-device", "usb-storage,id=stick,bus=usb.0,drive=stick-image,bootindex=0")
	}
	for i, d := range c.Disks {
		d = d.defaults(i)
		a = append(a, "-drive", "if=none,id="+d.ID+"-image,format="+d.Format+",readonly="+onOff(d.ReadOnly)+",file="+quote(d.Path),
			"-device", d.device(i))
	}
	nic := or(c.NIC, "virtio-net-pci")
	if !c.NoNet {
		n := "user,id=net0"
		for _, p := range c.Forward {
			n += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:0-:%d", p)
		}
		for _, p := range c.Fixed {
			n += fmt.Sprintf(",hostfwd=tcp:%s-:%d", p.Host, p.Guest)
		}
		a = append(a, "-netdev", n, "-device", nic+",netdev=net0")
	}
	if c.Mcast != "" {
		// Machines of one network differ in their hardware address, and by chance alone.
		a = append(a, "-netdev", "socket,id=net1,mcast="+c.Mcast+",localaddr=127.0.0.1", "-device", nic+",netdev=net1,mac="+randomMAC())
	}
	return append(a, c.Extra...), nil
}

func (d Disk) defaults(i int) Disk {
	d.ID = or(d.ID, "disk"+strconv.Itoa(i))
	d.Bus = or(d.Bus, "virtio")
	d.Format = or(d.Format, "raw")
	return d
}

// device is the QEMU device of a disk; port is the AHCI port.
func (d Disk) device(port int) string {
	var s string
	switch d.Bus {
	case "ahci":
		s = fmt.Sprintf("ide-hd,bus=ide.%d", port)
	case "usb":
		s = "usb-storage,bus=usb.0"
	default:
		s = "virtio-blk-pci"
	}
	s += ",id=" + d.ID + ",drive=" + d.ID + "-image"
	if d.Serial != "" {
		s += ",serial=" + quote(d.Serial)
	}
	return s
}

// firmware finds the UEFI code and copies its variables into the folder of the machine.
func (c Config) firmware() (code, vars string, err error) {
	from := c.Variables
	code = c.Firmware
	if code == "" {
		for _, d := range []struct{ code, vars string }{
			{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
			{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
		} {
			if _, err := os.Stat(d.code); err == nil {
				code, from = d.code, or(from, d.vars)
				break
			}
		}
		if code == "" {
			return "", "", errors.New("UEFI firmware for QEMU is missing: run make setup")
		}
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return "", "", fmt.Errorf("UEFI variables: %w", err)
	}
	vars = filepath.Join(c.Dir, "vars.fd")
	return code, vars, os.WriteFile(vars, b, 0o600)
}

// quote makes a value for QEMU's option lists, where a comma is doubled.
func quote(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// noise is what a terminal would swallow: control and escape sequences.
var noise = regexp.MustCompile(`\x1b\[[0-9;?=]*[A-Za-z]|\x1b[=>78c]|[\r\x00]`)

// listen takes in the serial line until it ends.
func (m *Machine) listen(log *os.File) {
	defer log.Close()
	b := make([]byte, 32<<10)
	var held []byte // the beginning of an escape sequence
	lineStart := true
	for {
		n, err := m.serial.Read(b)
		if n > 0 {
			at := time.Since(m.start)
			raw := append(held, b[:n]...)
			held = nil
			if i := bytes.LastIndexByte(raw, 0x1b); i >= 0 && len(raw)-i < 16 && err == nil && noise.FindIndex(raw[i:]) == nil {
				held = append([]byte(nil), raw[i:]...)
				raw = raw[:i]
			}
			clean := noise.ReplaceAll(raw, nil)
			for _, line := range bytes.SplitAfter(clean, []byte("\n")) {
				if len(line) == 0 {
					continue
				}
				if lineStart {
					fmt.Fprintf(log, "[%9.3f] ", at.Seconds())
				}
				log.Write(line)
				lineStart = line[len(line)-1] == '\n'
			}
			m.mu.Lock()
			if len(m.text) < maxText {
				m.text = append(m.text, clean...)
				m.marks = append(m.marks, mark{len(m.text), at})
			}
			close(m.more)
			m.more = make(chan struct{})
			m.mu.Unlock()
		}
		if err != nil {
			m.mu.Lock()
			m.closed = true
			close(m.more)
			m.more = make(chan struct{})
			m.mu.Unlock()
			return
		}
	}
}

// Expect waits for a regular expression on the serial console, from where the last match
// ended. The error shows the last lines.
func (m *Machine) Expect(ctx context.Context, pattern string) (Match, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return Match{}, fmt.Errorf("expect: %w", err)
	}
	for {
		m.mu.Lock()
		if loc := re.FindSubmatchIndex(m.text[m.pos:]); loc != nil {
			got := Match{Text: string(m.text[m.pos+loc[0] : m.pos+loc[1]])}
			for i := 2; i < len(loc); i += 2 {
				g := ""
				if loc[i] >= 0 {
					g = string(m.text[m.pos+loc[i] : m.pos+loc[i+1]])
				}
				got.Groups = append(got.Groups, g)
			}
			m.pos += loc[1]
			for _, k := range m.marks {
				if k.end >= m.pos {
					got.At = k.at
					break
				}
			}
			m.mu.Unlock()
			return got, nil
		}
		more, closed := m.more, m.closed
		m.mu.Unlock()
		if closed {
			return Match{}, fmt.Errorf("expect %q: %w; last output:\n%s", pattern, ErrOff, m.tail())
		}
		select {
		case <-more:
		case <-ctx.Done():
			return Match{}, fmt.Errorf("expect %q: %w; last output:\n%s", pattern, context.Cause(ctx), m.tail())
		}
	}
}

// tail is the end of the transcript.
func (m *Machine) tail() string {
	s := m.Serial()
	if len(s) > 2000 {
		s = "…" + s[len(s)-2000:]
	}
	return s
}

// Serial is everything the machine has written on its serial console.
func (m *Machine) Serial() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return string(m.text)
}

// Type types on the serial console. "\r" is the return key of a terminal, "\n" works too.
func (m *Machine) Type(s string) error {
	if _, err := io.WriteString(m.serial, s); err != nil {
		return fmt.Errorf("type on the serial console: %w", err)
	}
	return nil
}

// PowerButton presses the power button: the system is asked to shut down.
func (m *Machine) PowerButton(ctx context.Context) error {
	return m.qmp.do(ctx, "system_powerdown", nil, nil)
}

// Reset presses the reset button.
func (m *Machine) Reset(ctx context.Context) error {
	return m.qmp.do(ctx, "system_reset", nil, nil)
}

// Press presses keys of the keyboard together, by QEMU's names: "f2", "ret", "s".
func (m *Machine) Press(ctx context.Context, keys ...string) error {
	type key struct {
		Type string `json:"type"`
		Data string `json:"data"`
	}
	var ks []key
	for _, k := range keys {
		ks = append(ks, key{"qcode", k})
	}
	return m.qmp.do(ctx, "send-key", map[string]any{"keys": ks}, nil)
}

// CutPower takes the power away: QEMU is killed, with nothing flushed. It returns when QEMU
// is gone.
func (m *Machine) CutPower() error {
	select {
	case <-m.done:
		return nil
	default:
	}
	// The group is ours alone, and its leader has not been waited for before done.
	if err := syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cut the power: %w", err)
	}
	<-m.done
	return nil
}

// Wait waits until the machine has gone off by itself.
func (m *Machine) Wait(ctx context.Context) error {
	select {
	case <-m.done:
		if m.exit != nil {
			return fmt.Errorf("QEMU ended: %w; last output:\n%s", m.exit, m.tail())
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for power off: %w; last output:\n%s", context.Cause(ctx), m.tail())
	}
}

// Off tells whether the machine is off.
func (m *Machine) Off() <-chan struct{} { return m.done }

// Close cuts the power if need be and frees everything.
func (m *Machine) Close() error {
	err := m.CutPower()
	if e := m.serial.Close(); err == nil && !errors.Is(e, net.ErrClosed) {
		err = e
	}
	if m.qmp != nil {
		m.qmp.c.Close()
	}
	return err
}

// Unplug pulls a disk, or "stick", and waits until the system has let it go; USB devices
// go at once.
func (m *Machine) Unplug(ctx context.Context, id string) error {
	from := m.qmp.mark()
	if err := m.qmp.do(ctx, "device_del", map[string]any{"id": id}, nil); err != nil {
		return fmt.Errorf("unplug %s: %w", id, err)
	}
	if err := m.qmp.await(ctx, from, func(e event) bool {
		return e.Name == "DEVICE_DELETED" && e.Data["device"] == id
	}); err != nil {
		return fmt.Errorf("unplug %s: %w", id, err)
	}
	return nil
}

// Plug puts in a disk on virtio or USB.
func (m *Machine) Plug(ctx context.Context, d Disk) error {
	if d.ID == "" || d.Bus == "ahci" {
		return errors.New("plug: a disk needs an ID, and virtio or usb")
	}
	d = d.defaults(0)
	node := d.ID + "-plugged"
	if err := m.qmp.do(ctx, "blockdev-add", map[string]any{
		"driver": d.Format, "node-name": node, "read-only": d.ReadOnly,
		"file": map[string]any{"driver": "file", "filename": d.Path},
	}, nil); err != nil {
		return fmt.Errorf("plug %s: %w", d.ID, err)
	}
	dev := map[string]any{"driver": "virtio-blk-pci", "id": d.ID, "drive": node}
	if d.Bus == "usb" {
		dev["driver"], dev["bus"] = "usb-storage", "usb.0"
	}
	if d.Serial != "" {
		dev["serial"] = d.Serial
	}
	if err := m.qmp.do(ctx, "device_add", dev, nil); err != nil {
		return fmt.Errorf("plug %s: %w", d.ID, err)
	}
	return nil
}

// AwaitEvent waits for an event of QEMU that comes after the start or after the last one
// awaited, such as "RESET", "SHUTDOWN" or "WATCHDOG".
func (m *Machine) AwaitEvent(ctx context.Context, name string) error {
	if err := m.qmp.await(ctx, -1, func(e event) bool { return e.Name == name }); err != nil {
		return fmt.Errorf("event %s: %w", name, err)
	}
	return nil
}

// Screendump writes what the screen shows as a PNG file, or as PPM when the name ends so.
func (m *Machine) Screendump(ctx context.Context, path string) error {
	args := map[string]any{"filename": path}
	if !strings.HasSuffix(path, ".ppm") {
		args["format"] = "png"
	}
	return m.qmp.do(ctx, "screendump", args, nil)
}

// Port tells the loopback port that leads to a port of Config.Forward.
func (m *Machine) Port(ctx context.Context, guest int) (int, error) {
	var text string
	if err := m.qmp.do(ctx, "human-monitor-command", map[string]any{"command-line": "info usernet"}, &text); err != nil {
		return 0, err
	}
	// "  TCP[HOST_FORWARD]  12  127.0.0.1 40123  10.0.2.15  8081  0  0"
	for _, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) >= 6 && f[0] == "TCP[HOST_FORWARD]" && f[5] == strconv.Itoa(guest) {
			return strconv.Atoi(f[3])
		}
	}
	return 0, fmt.Errorf("port %d is not forwarded", guest)
}

// Started is when QEMU was started.
func (m *Machine) Started() time.Time { return m.start }

// NewDisk makes an empty disk: a sparse file.
func NewDisk(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// ProbeKVM tells why hardware acceleration cannot be used: it lets a machine run its BIOS
// for a moment, because an openable /dev/kvm alone promises nothing.
func ProbeKVM(ctx context.Context) error {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return errors.New("qemu-system-x86_64 is missing: run make setup")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, qemu, "-nodefaults", "-display", "none", "-accel", "kvm", "-cpu", "host", "-m", "64",
		"-chardev", "stdio,id=bios", "-device", "isa-debugcon,iobase=0x402,chardev=bios")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	n, rerr := io.ReadAtLeast(out, make([]byte, 7), 7)
	cancel()
	c.Wait() // killed: its error says nothing
	if n < 7 {
		return fmt.Errorf("KVM runs no program: %w", rerr)
	}
	return nil
}

// event is one event of QEMU.
type event struct {
	Name string         `json:"event"`
	Data map[string]any `json:"data"`
}

// qmp is the control socket: JSON objects, answers carry the id of their question.
type qmp struct {
	c    net.Conn
	done <-chan struct{}

	mu     sync.Mutex
	next   int
	wait   map[int]chan answer
	events []event
	seen   int           // events that AwaitEvent has passed
	more   chan struct{} // closed and replaced when events grow
	end    chan struct{} // closed when the socket ended
}

type answer struct {
	ID     *int            `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Desc string `json:"desc"`
	} `json:"error"`
	event
}

func openQMP(ctx context.Context, c net.Conn, done <-chan struct{}) (*qmp, error) {
	q := &qmp{c: c, done: done, wait: map[int]chan answer{}, more: make(chan struct{}), end: make(chan struct{})}
	go q.listen()
	if err := q.do(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return q, nil
}

func (q *qmp) listen() {
	defer close(q.end)
	d := json.NewDecoder(q.c)
	for {
		var a answer
		if err := d.Decode(&a); err != nil {
			return
		}
		q.mu.Lock()
		switch {
		case a.Name != "":
			q.events = append(q.events, a.event)
			close(q.more)
			q.more = make(chan struct{})
		case a.ID != nil && q.wait[*a.ID] != nil:
			q.wait[*a.ID] <- a
			delete(q.wait, *a.ID)
		}
		q.mu.Unlock()
	}
}

// do runs a command and decodes its answer into result, when that is not nil.
func (q *qmp) do(ctx context.Context, command string, args map[string]any, result any) error {
	q.mu.Lock()
	q.next++
	id := q.next
	ch := make(chan answer, 1)
	q.wait[id] = ch
	msg := map[string]any{"execute": command, "id": id}
	if args != nil {
		msg["arguments"] = args
	}
	b, err := json.Marshal(msg)
	if err == nil {
		_, err = q.c.Write(append(b, '\n'))
	}
	q.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	select {
	case a := <-ch:
		if a.Error != nil {
			return fmt.Errorf("%s: %s", command, a.Error.Desc)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(a.Return, result)
	case <-q.end:
		return fmt.Errorf("%s: %w", command, ErrOff)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", command, context.Cause(ctx))
	}
}

// mark is the number of events so far.
func (q *qmp) mark() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.events)
}

// await waits for an event behind from; -1: behind the last one awaited so.
func (q *qmp) await(ctx context.Context, from int, want func(event) bool) error {
	own := from < 0
	for {
		q.mu.Lock()
		if own {
			from = q.seen
		}
		for i := from; i < len(q.events); i++ {
			if want(q.events[i]) {
				if own {
					q.seen = i + 1
				}
				q.mu.Unlock()
				return nil
			}
		}
		more := q.more
		q.mu.Unlock()
		select {
		case <-more:
		case <-q.end:
			// The last events may have come just before the end.
			q.mu.Lock()
			grown := more != q.more
			q.mu.Unlock()
			if !grown {
				return ErrOff
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
