package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

const maxState = 256 << 20 // bytes; the agreements of a large network on one unit stay far below

// ReadState returns a state file of the unit, such as "#au_state.xml" (repository.md 8). One
// that does not exist is fs.ErrNotExist.
func (u *Unit) ReadState(name string) ([]byte, error) {
	if err := stateName(name); err != nil {
		return nil, err
	}
	d, err := u.open()
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", name, u.id, err)
	}
	defer d.close()
	b, err := d.read(name, maxState)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", name, u.id, err)
	}
	return b, nil
}

// WriteState replaces a state file as a whole and returns when that is durable: after a crash
// it is the old or the new one.
func (u *Unit) WriteState(name string, b []byte) error {
	if err := stateName(name); err != nil {
		return err
	}
	u.state.Lock()
	defer u.state.Unlock()
	d, err := u.open()
	if err == nil {
		err = errors.Join(d.replace(name, b, 0o644), d.close())
	}
	if err != nil {
		return fmt.Errorf("write %s of %s: %w", name, u.id, u.root.explain(err))
	}
	u.entry.touch()
	return nil
}

// stateName refuses what is not a state file: anything that could be a host's directory, and
// the files whose meaning belongs to the store.
func stateName(name string) error {
	switch {
	case !strings.HasPrefix(name, "#"), filepath.Base(name) != name, strings.Contains(name, "\x00"), strings.HasSuffix(name, ".temp"),
		name == unitIDFile, name == nodePropsFile, name == contentDir:
		return fmt.Errorf("state file %q: %w", name, fs.ErrInvalid)
	}
	return nil
}
