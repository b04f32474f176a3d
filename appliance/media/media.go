// Package media is the boot medium, called the stick: which device it is, what its slots
// hold, and how it is kept from being written (appliance.md 4.1 and 6).
//
// A candidate is a block device whose GPT has a partition of the project's config type.
// Kernel names never decide, because they change when a disk is added.
//
// Lock levels, strongest first; Lock verifies what it claims by trying to write back the
// bytes that are there already:
//
//	hardware   the device was read-only before any request of ours
//	detached   the USB device is deauthorised: its node is gone, the box runs from RAM
//	kernel     BLKROSET on the disk and on each partition; a write gives EPERM
//	none       a write was accepted
package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"armarium/image/gpt"
	"armarium/image/layout"
)

// Levels of the lock; the words of the daemon's line to PID 1.
const (
	Hardware = "hardware"
	Detached = "detached"
	Kernel   = "kernel"
	None     = "none"
)

// Outcomes of Decide.
var (
	ErrNoStick    = errors.New("the stick was not found")
	ErrOtherImage = errors.New("the stick holds another image than the one that runs")
	ErrAmbiguous  = errors.New("more than one stick could be the one that was started from")
)

// A Stick is a candidate.
type Stick struct {
	Name     string   // kernel name, "sda"; for opening only
	Path     string   // device node
	Parts    []string // device nodes of the kernel's partitions
	Complete bool     // all partitions of its table have their device nodes
	Place    string   // path below /sys/devices
	USB      string   // directory in sysfs of the USB device it is; "" when it is none
	Size     int64
	ReadOnly bool     // the device itself refuses writes; read before any request of ours
	GUIDs    []string // unique GUIDs of disk and partitions
	Slots    [2][]byte
}

// Sealed tells whether a slot was ever written.
func (s *Stick) Sealed() bool {
	return slices.ContainsFunc(s.Slots[:], func(b []byte) bool { return strings.HasPrefix(string(b), layout.SlotMagic) })
}

// Candidates lists the sticks below sys, "/sys", whose nodes are in dev, "/dev", with their
// slots read into memory. A device that cannot be read is no candidate.
func Candidates(sys, dev string) ([]Stick, error) {
	entries, err := os.ReadDir(filepath.Join(sys, "block"))
	if err != nil {
		return nil, fmt.Errorf("look for the stick: %w", err)
	}
	configType, err := gpt.ParseGUID(layout.ConfigType)
	if err != nil {
		return nil, err
	}
	var found []Stick
	for _, e := range entries {
		if s, err := inspect(sys, dev, e.Name(), configType); err == nil {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b Stick) int { return strings.Compare(a.Place, b.Place) })
	return found, nil
}

func inspect(sys, dev, name string, configType gpt.GUID) (Stick, error) {
	dir := filepath.Join(sys, "block", name)
	sectors, err := strconv.ParseInt(attr(dir, "size"), 10, 64)
	if err != nil || sectors == 0 || strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "ram") {
		return Stick{}, ErrNoStick
	}
	s := Stick{Name: name, Path: filepath.Join(dev, name), Size: sectors * 512, ReadOnly: attr(dir, "ro") == "1"}
	if s.Place, err = filepath.EvalSymlinks(dir); err != nil {
		return Stick{}, err
	}
	s.USB = usbDevice(s.Place)
	nodes, _ := filepath.Glob(filepath.Join(dir, "*", "partition"))
	for _, n := range nodes {
		s.Parts = append(s.Parts, filepath.Join(dev, filepath.Base(filepath.Dir(n))))
	}
	f, err := os.Open(s.Path)
	if err != nil {
		return Stick{}, err
	}
	defer f.Close()
	t, err := gpt.Read(f, s.Size)
	if err != nil {
		return Stick{}, err
	}
	config, ok := t.Find(configType)
	if !ok || t.Size(config) < layout.Slots*layout.SlotSize {
		return Stick{}, ErrNoStick
	}
	// A disk is there for a moment before its partitions are, and those before their nodes.
	s.Complete = len(s.Parts) == len(t.Partitions)
	for _, p := range s.Parts {
		if _, err := os.Stat(p); err != nil {
			s.Complete = false
		}
	}
	s.GUIDs = []string{t.Disk.String()}
	for _, p := range t.Partitions {
		s.GUIDs = append(s.GUIDs, p.Unique.String())
	}
	for i := range s.Slots {
		s.Slots[i] = make([]byte, layout.SlotSize)
		if _, err := f.ReadAt(s.Slots[i], t.Offset(config)+int64(i)*layout.SlotSize); err != nil {
			return Stick{}, fmt.Errorf("read slot %d: %w", i, err)
		}
	}
	return s, nil
}

func attr(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// usbDevice climbs from a block device to the USB device that it hangs on.
func usbDevice(place string) string {
	for d := place; len(d) > 1; d = filepath.Dir(d) {
		if attr(d, "idVendor") != "" && attr(d, "authorized") != "" {
			return d
		}
	}
	return ""
}

// Decide chooses the stick the box was started from (appliance.md 4.1). loader is the
// partition GUID that the UEFI stub told, "" without one; imageID is that of the running
// image. Errors: ErrNoStick (it may still appear), ErrOtherImage, ErrAmbiguous.
func Decide(candidates []Stick, loader, imageID string) (*Stick, error) {
	left := slices.Clone(candidates)
	keep := func(good func(Stick) bool) { left = slices.DeleteFunc(left, func(s Stick) bool { return !good(s) }) }
	if loader != "" {
		keep(func(s Stick) bool { return slices.Contains(s.GUIDs, strings.ToLower(loader)) })
	}
	if len(left) == 0 {
		return nil, ErrNoStick
	}
	keep(func(s Stick) bool { return slices.Contains(s.GUIDs, layout.UniqueGUID(imageID, "disk")) })
	if len(left) == 0 {
		return nil, ErrOtherImage
	}
	if slices.ContainsFunc(left, func(s Stick) bool { return s.Sealed() }) {
		keep(func(s Stick) bool { return s.Sealed() })
	}
	if len(left) > 1 {
		return nil, fmt.Errorf("%w: %d sticks", ErrAmbiguous, len(left))
	}
	return &left[0], nil
}

// ParseLoaderGUID reads the EFI variable LoaderDevicePartUUID as efivarfs gives it: four
// bytes of attributes, then UTF-16 text. "" means that it is none.
func ParseLoaderGUID(b []byte) string {
	if len(b) < 4 || len(b) > 4+2*64 {
		return ""
	}
	var u []uint16
	for i := 4; i+1 < len(b); i += 2 {
		u = append(u, binary.LittleEndian.Uint16(b[i:]))
	}
	g, err := gpt.ParseGUID(strings.TrimRight(string(utf16.Decode(u)), "\x00"))
	if err != nil {
		return ""
	}
	return g.String()
}

// Lock sets the kernel's write protection on the disk and each partition, so the stick has
// to be Complete, or a partition that appears later is left out. It then tries to write to
// all of them, and gives the level that was verified with a note how. An error means that a
// write was accepted; it changed nothing, because it wrote what was there.
func (s *Stick) Lock() (level, note string, err error) {
	nodes := append([]string{s.Path}, s.Parts...)
	for _, n := range nodes {
		if err := setReadOnly(n); err != nil {
			return None, "", fmt.Errorf("lock the stick: %w", err)
		}
	}
	how := map[string]bool{}
	for _, n := range nodes {
		errno, err := tryWrite(n)
		if err != nil {
			return None, "", fmt.Errorf("lock the stick: %w", err)
		}
		how[unix.ErrnoName(errno)] = true
	}
	var names []string
	for n := range how {
		names = append(names, n)
	}
	slices.Sort(names)
	note = fmt.Sprintf("write refused with %s on disk and %d partitions", strings.Join(names, ", "), len(s.Parts))
	if s.ReadOnly {
		return Hardware, note + "; the device itself is read-only", nil
	}
	return Kernel, note, nil
}

func setReadOnly(node string) error {
	f, err := os.Open(node)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 1); err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	return nil
}

// tryWrite writes the first sector of a node over itself and gives the refusal.
func tryWrite(node string) (unix.Errno, error) {
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC|unix.O_SYNC, 0)
	if err == nil {
		defer unix.Close(fd)
		b := make([]byte, 512)
		if _, err = unix.Pread(fd, b, 0); err == nil {
			_, err = unix.Pwrite(fd, b, 0)
		}
	}
	switch errno, _ := errors.AsType[unix.Errno](err); errno {
	case unix.EPERM, unix.EROFS, unix.EACCES:
		return errno, nil
	case 0:
		return 0, fmt.Errorf("%s accepted a write", node)
	default:
		return 0, fmt.Errorf("try to write %s: %w", node, err)
	}
}

// Detach cuts a USB stick off the bus and waits until its block device is gone. Only a
// re-authorisation in sysfs or plugging it in again brings it back.
func (s *Stick) Detach(sys string) error {
	if s.USB == "" {
		return errors.New("detach the stick: it is not on USB")
	}
	if err := os.WriteFile(filepath.Join(s.USB, "authorized"), []byte("0"), 0); err != nil {
		return fmt.Errorf("detach the stick: %w", err)
	}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Lstat(filepath.Join(sys, "block", s.Name)); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	return fmt.Errorf("detach the stick: %s is still there", s.Name)
}

// Hide removes the device nodes, so that nothing opens the stick by its name.
func (s *Stick) Hide() error {
	var errs []error
	for _, n := range append([]string{s.Path}, s.Parts...) {
		if err := os.Remove(n); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("hide the stick: %w", err)
	}
	return nil
}
