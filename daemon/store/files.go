package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A dir is an open directory below which files are reached name by name. No name leads out of
// it and no symbolic link is followed, whatever lies on the disk. Paths may be longer than
// the system's limit for one call.
type dir struct {
	f *os.File // its Name is the full path, for messages
}

// openDir opens a directory that the operator named; links in its path are followed.
func openDir(path string) (*dir, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &dir{f}, nil
}

func (d *dir) close() error            { return d.f.Close() }
func (d *dir) path(name string) string { return filepath.Join(d.f.Name(), name) }
func (d *dir) fd() int                 { return int(d.f.Fd()) }
func (d *dir) fail(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: d.path(name), Err: err}
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// openat opens one name of d.
func (d *dir) openat(name string, flags int, mode uint32) (*os.File, error) {
	if name == "" || name == "." || name == ".." || filepath.Base(name) != name {
		return nil, d.fail("open", name, fs.ErrInvalid)
	}
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	return os.NewFile(uintptr(fd), d.path(name)), nil
}

// sub opens a directory in d.
func (d *dir) sub(name string) (*dir, error) {
	f, err := d.openat(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &dir{f}, nil
}

// descend opens the directory that lies names deep in d.
func (d *dir) descend(names []string) (*dir, error) {
	at, err := d.sub(names[0])
	for _, name := range names[1:] {
		if err != nil {
			return nil, err
		}
		up := at
		at, err = up.sub(name)
		up.close()
	}
	return at, err
}

// makeAll opens the directory names deep in d and makes those missing; each new one is
// durable in its parent before the next is made.
func (d *dir) makeAll(names []string) (*dir, error) {
	at := d
	for _, name := range names {
		down, err := at.sub(name)
		if errors.Is(err, fs.ErrNotExist) {
			if err = at.mkdir(name); err == nil {
				down, err = at.sub(name)
			}
		}
		if at != d {
			at.close()
		}
		if err != nil {
			return nil, err
		}
		at = down
	}
	return at, nil
}

// mkdir makes a directory in d and waits until it is durable.
func (d *dir) mkdir(name string) error {
	if err := retry(func() error { return unix.Mkdirat(d.fd(), name, 0o755) }); err != nil {
		return d.fail("mkdir", name, err)
	}
	if down, err := d.sub(name); err == nil {
		d.giveTo(down.f)
		down.close()
	}
	return d.sync()
}

// giveTo gives what was made in d to the owner of d: so a disk that was adopted stays that of
// the user of its 1.x node, which may take it back (repository.md 10). Only root can do that,
// and where it fails the file can still be read by all.
func (d *dir) giveTo(f *os.File) {
	var st unix.Stat_t
	if os.Geteuid() == 0 && unix.Fstat(d.fd(), &st) == nil && (st.Uid != 0 || st.Gid != 0) {
		_ = f.Chown(int(st.Uid), int(st.Gid))
	}
}

// open opens a regular file for reading.
func (d *dir) open(name string) (*os.File, error) {
	// Without O_NONBLOCK a FIFO would hold the reader for ever.
	f, err := d.openat(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = d.fail("open", name, errors.New("not a regular file"))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// create opens a file for writing and empties it.
func (d *dir) create(name string, mode uint32) (*os.File, error) {
	f, err := d.openat(name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, mode)
	if err == nil {
		d.giveTo(f)
	}
	return f, err
}

// stat describes a name of d; of a link, the link itself.
func (d *dir) stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return st, d.fail("stat", name, err)
	}
	return st, nil
}

func (d *dir) rename(from, to string) error {
	if err := retry(func() error { return unix.Renameat(d.fd(), from, d.fd(), to) }); err != nil {
		return d.fail("rename to "+to, from, err)
	}
	return nil
}

// remove removes a file, or with directory set an empty directory.
func (d *dir) remove(name string, directory bool) error {
	flags := 0
	if directory {
		flags = unix.AT_REMOVEDIR
	}
	if err := retry(func() error { return unix.Unlinkat(d.fd(), name, flags) }); err != nil {
		return d.fail("remove", name, err)
	}
	return nil
}

// sync makes the names in d durable.
func (d *dir) sync() error {
	if err := d.f.Sync(); err != nil {
		return d.fail("sync", "", err)
	}
	return nil
}

// entries lists d in no order.
func (d *dir) entries() ([]fs.DirEntry, error) {
	// A second descriptor, because reading moves the position of the first.
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(d.fd(), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, d.fail("list", "", err)
	}
	f := os.NewFile(uintptr(fd), d.f.Name())
	defer f.Close()
	return f.ReadDir(-1)
}

// read returns a whole file of at most limit bytes.
func (d *dir) read(name string, limit int64) ([]byte, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = d.fail("read", name, fmt.Errorf("larger than %d bytes", limit))
	}
	return b, err
}

// write writes a whole file and waits until its bytes, not yet its name, are durable.
func (d *dir) write(name string, b []byte, mode uint32) error {
	f, err := d.create(name, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, finish(f))
}

// finish makes a written file durable and closes it.
func finish(f *os.File) error {
	return errors.Join(f.Sync(), f.Close())
}

// replace replaces a whole file at once: after a crash it is the old or the new one.
func (d *dir) replace(name string, b []byte, mode uint32) error {
	temp := name + ".temp"
	if err := d.write(temp, b, mode); err != nil {
		return errors.Join(err, d.drop(temp))
	}
	if err := d.rename(temp, name); err != nil {
		return errors.Join(err, d.drop(temp))
	}
	return d.sync()
}

// drop removes a file that may be missing.
func (d *dir) drop(name string) error {
	if err := d.remove(name, false); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// link gives a file a second name.
func (d *dir) link(name, second string) error {
	if err := retry(func() error { return unix.Linkat(d.fd(), name, d.fd(), second, 0) }); err != nil {
		return d.fail("link to "+second, name, err)
	}
	return nil
}
