// Package disks finds the content disks, checks them, makes new ones of blank disks, and
// mounts them (appliance.md 7).
//
// Words: a device is a whole disk; a volume is a device or partition with an ext4 file
// system; a claim is a mount point and the volume it gets, or the reason why it gets none.
//
//	Probe → devices with their volumes → Plan → claims → Prepare each → mounted, or a state
//
// A volume belongs to a mount point by its label alone: "cache0" to /cache0. Kernel names
// such as sda decide nothing, because they change when a disk is added. What is on a disk
// is never formatted over: only a device whose first and last MiB are zero, and that the
// sealed settings allow, is made a content disk.
//
// A mount point without its disk is no plain directory but an empty read-only mount, so
// that nothing can be written where the disk would be (appliance.md 7.4).
package disks

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"armarium/image/gpt"
)

// States of a claim; the words of the daemon's line to PID 1.
const (
	OK       = "ok"
	ReadOnly = "read-only"
	Damaged  = "damaged"
	Foreign  = "foreign"
	Missing  = "missing"
	Double   = "double"
	Spare    = "spare"
)

// A Device is a whole disk as the kernel shows it.
type Device struct {
	Name      string // kernel name, "vdb"; for opening only
	Path      string // device node, "/dev/vdb"
	Place     string // where it is plugged in, the path below /sys/devices
	Serial    string // "" when the device tells none
	Size      uint64 // bytes
	ReadOnly  bool
	Removable bool
	Blank     bool // first and last MiB are zero
	Parted    bool // has a partition table the kernel reads
	Stick     bool // has a config partition: never used for content
	Volumes   []Volume
}

// A Volume is an ext4 file system on a device.
type Volume struct {
	Path  string // device node of the partition or whole disk
	Super Superblock
}

// A Claim is a mount point and what it gets. A Spare or Foreign claim may have none.
type Claim struct {
	Mount  string // "/cache0"
	Device Device
	Volume Volume // zero when Format is set or nothing was found
	Format bool   // make a content disk of Device first
	State  string // "" until Prepare; Missing, Double or Spare when there is nothing to prepare
	Note   string // why, and what to do
}

// Probe lists the disks below sys, "/sys", whose nodes are in dev, "/dev". Memory disks,
// loop devices, optical and floppy drives are left out. A device that cannot be read is
// listed without volumes.
func Probe(sys, dev string, stickType gpt.GUID) ([]Device, error) {
	entries, err := os.ReadDir(filepath.Join(sys, "block"))
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var found []Device
	for _, e := range entries {
		d, ok := inspect(sys, dev, e.Name(), stickType)
		if ok {
			found = append(found, d)
		}
	}
	slices.SortFunc(found, func(a, b Device) int {
		return cmp.Or(cmp.Compare(a.Serial, b.Serial), cmp.Compare(a.Place, b.Place))
	})
	return found, nil
}

// inspect reads what the kernel and the first sectors tell about one device.
func inspect(sys, dev, name string, stickType gpt.GUID) (Device, bool) {
	dir := filepath.Join(sys, "block", name)
	for _, p := range []string{"loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"} {
		if strings.HasPrefix(name, p) {
			return Device{}, false
		}
	}
	sectors, err := strconv.ParseUint(attr(dir, "size"), 10, 64)
	if err != nil || sectors == 0 {
		return Device{}, false
	}
	d := Device{Name: name, Path: filepath.Join(dev, name), Size: sectors * 512, Serial: serial(dir),
		ReadOnly: attr(dir, "ro") == "1", Removable: attr(dir, "removable") == "1"}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		d.Place = real
	}
	if f, err := os.Open(d.Path); err == nil {
		if t, err := gpt.Read(f, int64(d.Size)); err == nil {
			_, d.Stick = t.Find(stickType)
		}
		d.Blank = IsBlank(f, int64(d.Size)) == nil
		f.Close()
	}
	if d.Stick {
		return d, true
	}
	for _, part := range parts(dir) {
		d.Parted = true
		d.addVolume(filepath.Join(dev, part))
	}
	if !d.Parted {
		d.addVolume(d.Path)
	}
	return d, true
}

func (d *Device) addVolume(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	if sb, err := ReadSuperblock(f); err == nil {
		d.Volumes = append(d.Volumes, Volume{path, sb})
	}
}

// parts lists the kernel's partitions of a device in order.
func parts(dir string) []string {
	found, _ := filepath.Glob(filepath.Join(dir, "*", "partition"))
	var names []string
	for _, p := range found {
		names = append(names, filepath.Base(filepath.Dir(p)))
	}
	slices.Sort(names)
	return names
}

func attr(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// serial is the serial number of a device: of virtio and NVMe by its own attribute, of SCSI
// and ATA by page 0x80 of the vital product data.
func serial(dir string) string {
	for _, a := range []string{"serial", "device/serial"} {
		if s := attr(dir, a); s != "" {
			return s
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80")); err == nil && len(b) > 4 {
		return strings.Trim(string(b[4:]), " \x00")
	}
	return ""
}

// blankSpan is how much at each end of a blank disk is zero.
const blankSpan = 1 << 20

// ErrNotBlank says that a disk holds something.
var ErrNotBlank = errors.New("the disk is not blank")

// IsBlank tells whether the first and the last MiB of a disk of size bytes are zero. All
// known file systems, partition tables and volume managers leave a mark there.
func IsBlank(r io.ReaderAt, size int64) error {
	if size < 64<<20 {
		return fmt.Errorf("%w: %d bytes are too few for content", ErrNotBlank, size)
	}
	buf := make([]byte, blankSpan)
	for _, off := range []int64{0, size - blankSpan} {
		if _, err := r.ReadAt(buf, off); err != nil && err != io.EOF {
			return fmt.Errorf("read at %d: %w", off, err)
		}
		for i, b := range buf {
			if b != 0 {
				return fmt.Errorf("%w: data at byte %d", ErrNotBlank, off+int64(i))
			}
		}
	}
	return nil
}

// Plan gives every mount point its volume, and blank devices to those without one when
// mayFormat allows the serial number. Claims come in the order of mounts, then spare disks.
// Devices must be in Probe's order.
func Plan(mounts []string, devices []Device, mayFormat func(serial string) bool) []Claim {
	var claims []Claim
	used := map[string]bool{} // by Place
	for _, m := range mounts {
		c := Claim{Mount: m}
		var where []string
		for _, d := range devices {
			for _, v := range d.Volumes {
				if "/"+v.Super.Label == m {
					c.Device, c.Volume = d, v
					where = append(where, name(d))
					used[d.Place] = true
				}
			}
		}
		switch len(where) {
		case 0:
			c.State, c.Note = Missing, "no disk is labelled "+strings.TrimPrefix(m, "/")+"; connect it and restart the box"
		case 1:
		default:
			c = Claim{Mount: m, State: Double, Note: "disks " + strings.Join(where, " and ") + " are both labelled " +
				strings.TrimPrefix(m, "/") + "; take out the wrong one and restart the box"}
		}
		claims = append(claims, c)
	}
	for i := range claims {
		if claims[i].State != Missing {
			continue
		}
		for _, d := range devices {
			if !used[d.Place] && d.Blank && !d.Parted && !d.Stick && !d.ReadOnly && !d.Removable && mayFormat(d.Serial) {
				used[d.Place] = true
				claims[i] = Claim{Mount: claims[i].Mount, Device: d, Format: true}
				break
			}
		}
	}
	for _, d := range devices {
		if used[d.Place] || d.Stick {
			continue
		}
		c := Claim{Device: d, State: Spare}
		switch {
		case d.Blank:
			c.Note = "blank; the sealed settings do not allow to use it, or every mount point has its disk"
		case len(d.Volumes) > 0 && strings.HasPrefix(d.Volumes[0].Super.Label, "cache"):
			c.Note = "labelled " + d.Volumes[0].Super.Label + ", which LOCKSS_DISK_PATHS does not name"
		default:
			c.Note = "holds something else and is left alone"
		}
		claims = append(claims, c)
	}
	return claims
}

// name is what a person can find a device by.
func name(d Device) string {
	if d.Serial != "" {
		return d.Serial
	}
	return d.Name
}

// Newest is the latest time at which one of the volumes was written; zero without any.
func Newest(devices []Device) time.Time {
	var t time.Time
	for _, d := range devices {
		for _, v := range d.Volumes {
			if v.Super.Written.After(t) {
				t = v.Super.Written
			}
		}
	}
	return t
}
