package disks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/u-root/u-root/pkg/mount/block"
	"golang.org/x/sys/unix"

	"armarium/image/gpt"
)

// nodeFile at the root of a content disk names the node it belongs to.
const nodeFile = ".node"

// linuxData is the partition type of a content disk, "Linux filesystem data".
const linuxData = "0fc63daf-8483-4772-8e79-3d69d8477de4"

// A Keeper prepares claims. Its functions are what a test replaces.
type Keeper struct {
	// Run runs a program to its end and gives its exit code and output. An error means
	// that it could not be started or was ended by a signal.
	Run func(ctx context.Context, name string, args ...string) (code int, output string, err error)
	// Mount and Unmount are the system calls.
	Mount   func(source, target, fstype string, flags uintptr, data string) error
	Unmount func(target string, flags int) error
	// Progress is called every 10 s while a disk is checked.
	Progress func(mount string, since time.Duration)

	NodeID   string
	UID, GID int // owner of the content root
}

// Prepare does everything between a claim and a mounted disk: formats a blank one, refuses
// a foreign one, checks, mounts, marks and makes the content root. It returns the claim
// with its state and the note for the operator; it has no error, because every outcome is a
// state that the box goes on with.
func (k *Keeper) Prepare(ctx context.Context, c Claim) Claim {
	if c.State != "" {
		if c.Mount != "" {
			c.Note = k.bar(c.Mount, c.Note)
		}
		return c
	}
	if c.Format {
		path, err := k.format(ctx, c.Device, strings.TrimPrefix(c.Mount, "/"))
		if err != nil {
			c.State = Damaged
			c.Note = k.bar(c.Mount, fmt.Sprintf("blank disk could not be made a content disk: %v; replace it", err))
			return c
		}
		c.Volume.Path = path
		c.Note = "new disk, formatted"
		if f, err := os.Open(path); err == nil {
			c.Volume.Super, _ = ReadSuperblock(f) // only to show its UUID
			f.Close()
		}
	} else if id := k.peek(c); id != "" && id != k.NodeID {
		return k.foreign(c, id)
	}
	verdict, what := k.check(ctx, c)
	if verdict != mountable {
		c.State = Damaged
		c.Note = what + "; save or replace the disk, the other nodes repair the content"
		if err := k.Mount(c.Volume.Path, c.Mount, "ext4", contentFlags|unix.MS_RDONLY, "noload"); err != nil {
			c.Note = k.bar(c.Mount, fmt.Sprintf("%s; not mounted: %v", c.Note, err))
		}
		return c
	}
	if c.Device.ReadOnly {
		if err := k.Mount(c.Volume.Path, c.Mount, "ext4", contentFlags|unix.MS_RDONLY, ""); err != nil {
			c.State, c.Note = Damaged, k.bar(c.Mount, fmt.Sprintf("read-only disk cannot be mounted: %v", err))
			return c
		}
		c.State, c.Note = ReadOnly, "the disk itself refuses writes; switch its protection off and restart the box"
		return c
	}
	if err := k.Mount(c.Volume.Path, c.Mount, "ext4", contentFlags, "errors=remount-ro"); err != nil {
		c.State, c.Note = Damaged, k.bar(c.Mount, fmt.Sprintf("cannot be mounted: %v", err))
		return c
	}
	// Looked at again: the first look was before the journal was replayed.
	switch id, err := ReadNode(c.Mount); {
	case err != nil:
		c.State, c.Note = Damaged, fmt.Sprintf("%v", err)
		return c
	case id != "" && id != k.NodeID:
		k.Unmount(c.Mount, 0)
		return k.foreign(c, id)
	case id == "":
		if err := WriteNode(c.Mount, k.NodeID); err != nil {
			c.State, c.Note = ReadOnly, fmt.Sprintf("%v", err)
			return c
		}
	}
	if err := contentRoot(c.Mount, k.UID, k.GID); err != nil {
		c.State, c.Note = ReadOnly, fmt.Sprintf("%v", err)
		return c
	}
	c.State = OK
	return c
}

// contentFlags are the mount flags of every content disk: data, never programs.
const contentFlags = unix.MS_NOATIME | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// bar puts an empty read-only mount where the disk would be, and adds to the note when even
// that does not work.
func (k *Keeper) bar(mount, note string) string {
	if err := k.Mount("none", mount, "tmpfs", contentFlags|unix.MS_RDONLY, "size=4k,mode=0555"); err != nil {
		return fmt.Sprintf("%s (empty mount: %v)", note, err)
	}
	return note
}

func (k *Keeper) foreign(c Claim, id string) Claim {
	c.State = Foreign
	c.Note = k.bar(c.Mount, fmt.Sprintf("belongs to node %s; take it out, or seal the settings with NODE_ID=%s to go on with it", id, id))
	return c
}

// peek reads the node id of a disk without writing to it, not even its journal. "" means
// that there is none, or that it cannot be known before the check.
func (k *Keeper) peek(c Claim) string {
	if err := k.Mount(c.Volume.Path, c.Mount, "ext4", contentFlags|unix.MS_RDONLY, "noload"); err != nil {
		return ""
	}
	defer k.Unmount(c.Mount, 0)
	id, err := ReadNode(c.Mount)
	if err != nil {
		return ""
	}
	return id
}

type verdict int

const (
	mountable verdict = iota
	again
	damaged
)

// judge is the table of appliance.md 7.3 for one run of e2fsck -p. A crash has code -1.
func judge(code int) verdict {
	switch code {
	case 0, 1:
		return mountable
	case 2, 3:
		return again
	}
	return damaged
}

// check runs e2fsck -p, a second time when the first changed so much that it asks for it.
func (k *Keeper) check(ctx context.Context, c Claim) (verdict, string) {
	stop := k.progress(c.Mount)
	defer stop()
	for run := 1; ; run++ {
		code, out, err := k.Run(ctx, "/sbin/e2fsck", "-p", c.Volume.Path)
		if err != nil {
			return damaged, fmt.Sprintf("check ended early: %v", err)
		}
		v := judge(code)
		if v == again && run == 1 {
			continue
		}
		if v == mountable {
			return mountable, ""
		}
		return damaged, fmt.Sprintf("check found errors it may not repair alone (code %d: %s)", code, firstLine(out))
	}
}

// progress calls Progress every 10 s until the returned function is called.
func (k *Keeper) progress(mount string) func() {
	if k.Progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(10 * time.Second)
		defer t.Stop()
		start := time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				k.Progress(mount, time.Since(start))
			}
		}
	}()
	return func() { cancel(); <-done }
}

// firstLine is where the ext4 tools say what is wrong; what follows is advice.
func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(line)
}

// format makes a content disk of a blank device: GPT, one partition aligned to 1 MiB, ext4.
func (k *Keeper) format(ctx context.Context, d Device, label string) (string, error) {
	if err := partition(d, label); err != nil {
		return "", err
	}
	path := block.ComposePartName(d.Path, 1)
	if err := appear(ctx, path); err != nil {
		return "", err
	}
	code, out, err := k.Run(ctx, "/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-I", "256", "-L", label,
		"-O", "has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize", path)
	if err != nil {
		return "", fmt.Errorf("make file system: %w", err)
	}
	if code != 0 {
		return "", fmt.Errorf("make file system: code %d: %s", code, firstLine(out))
	}
	return path, nil
}

// partition writes the table of a content disk and tells the kernel of it. The device is
// closed in between: the kernel reads no table anew while somebody has the disk for himself.
func partition(d Device, label string) error {
	if err := writeTable(d, label); err != nil {
		return err
	}
	if err := (&block.BlockDev{Name: d.Name}).ReadPartitionTable(); err != nil {
		return fmt.Errorf("read partition table again: %w", err)
	}
	return nil
}

// writeTable looks once more whether the device is blank, through the same open file it
// then writes.
func writeTable(d Device, label string) error {
	t, err := contentTable(d, label)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(d.Path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := IsBlank(f, int64(d.Size)); err != nil {
		return err
	}
	if err := gpt.Write(f, int64(d.Size), t); err != nil {
		return fmt.Errorf("write partition table: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write partition table: %w", err)
	}
	return nil
}

// contentTable is the partition table of a content disk. Its GUIDs are those the kernel's
// random source gives: they are not needed to find the disk again.
func contentTable(d Device, label string) (*gpt.Table, error) {
	typ, err := gpt.ParseGUID(linuxData)
	if err != nil {
		return nil, err
	}
	const sector, align = 512, (1 << 20) / 512
	_, last := gpt.Usable(int64(d.Size), sector)
	end := (last + 1) / align * align
	if end <= align {
		return nil, errors.New("the disk is too small")
	}
	disk, err := newGUID()
	if err != nil {
		return nil, err
	}
	part, err := newGUID()
	if err != nil {
		return nil, err
	}
	return &gpt.Table{Disk: disk, SectorSize: sector, Partitions: []gpt.Partition{
		{Number: 1, Type: typ, Unique: part, First: align, Last: end - 1, Name: label},
	}}, nil
}

// appear waits up to 10 s for a device node that the kernel is about to make.
func appear(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not appear: %w", path, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ReadNode gives the node id of the content disk mounted at dir, "" when it has none yet.
func ReadNode(dir string) (string, error) {
	f, err := os.OpenFile(filepath.Join(dir, nodeFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read node id: %w", err)
	}
	defer f.Close()
	b := make([]byte, 256)
	n, err := f.Read(b)
	if err != nil {
		return "", fmt.Errorf("read node id in %s: %w", dir, err)
	}
	return strings.TrimSpace(string(b[:n])), nil
}

// WriteNode marks the content disk mounted at dir as this node's, durably.
func WriteNode(dir, id string) error {
	tmp := filepath.Join(dir, nodeFile+".new")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o444)
	if err == nil {
		_, err = f.WriteString(id + "\n")
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, nodeFile))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write node id: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// contentRoot makes <mount>/gamma for the daemon. An existing one keeps its owner.
func contentRoot(mount string, uid, gid int) error {
	root, err := os.OpenRoot(mount)
	if err != nil {
		return fmt.Errorf("content root: %w", err)
	}
	defer root.Close()
	err = root.Mkdir("gamma", 0o750)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = root.Lchown("gamma", uid, gid)
	}
	if err == nil {
		err = syncDir(mount)
	}
	if err != nil {
		return fmt.Errorf("content root: %w", err)
	}
	return nil
}

// Usage gives total bytes of the file system at mount and those free for the daemon.
func Usage(mount string) (total, free uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(mount, &st); err != nil {
		return 0, 0, fmt.Errorf("fill of %s: %w", mount, err)
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
}

// WentReadOnly tells whether the kernel has turned the file system at mount read-only,
// which it does after an error of the disk.
func WentReadOnly(mount string) bool {
	var st unix.Statfs_t
	return unix.Statfs(mount, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}
