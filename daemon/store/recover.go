package store

import (
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"armarium/daemon/lockss"
)

// recovery returns the renames (from, to, from, to …) that finish or take back what a crash
// interrupted in a content directory (repository.md 5). The caller holds the node's lock.
// Storing renames in this order, n being the old number; each line is a state that may be met:
//
//	                              current  current.props  n  n.props  temp  temp.props
//	0  temp written                  x          x                       x       x       left alone
//	1  current → n                              x         x             x       x       } finished if temp
//	2  current.props → n.props                            x     x       x       x       } is whole, else
//	                                                                                      taken back
//	3  temp → current                x                    x     x               x       finished
//	4  temp.props → current.props    x          x         x     x                       done
//
// A version whose body was missing before has no n; then state 1 is the damage itself and is
// left alone. A first version has neither n nor n.props, and its state 2 is left alone: it was
// never acknowledged. Reviving and deactivating rename two files each, from and to inactive;
// half of it is made active.
//
// Nothing is removed, and nothing renamed onto a file that exists.
func (u *Unit) recovery(cd *dir) (steps []string, err error) {
	entries, err := cd.entries()
	if err != nil {
		return nil, err
	}
	has := make(map[string]bool, len(entries))
	last := 0 // highest number among older versions
	for _, e := range entries {
		has[e.Name()] = true
		last = max(last, atoi(strings.TrimSuffix(e.Name(), ".props")))
	}
	move := func(from, to string) {
		if has[from] && !has[to] {
			steps = append(steps, from, to)
			has[from], has[to] = false, true
		}
	}
	finish := func() {
		move(temp, current)
		move(tempProps, currentProps)
	}
	switch old := strconv.Itoa(last); {
	case has[current] && has[currentProps]:

	case has[currentProps]: // state 1, or the body is gone
		props, err := readProps(cd, currentProps)
		if err != nil {
			return nil, nil // nothing can be told from them
		}
		n := strconv.Itoa(versionOf(props))
		switch {
		case has[inactive] && !has[inactiveProps]:
			if sum := props[keyChecksum]; sum == "" || matches(cd, inactive, sum) {
				move(inactive, current)
			}
		case !has[n] || has[n+".props"]:
		case has[temp] && u.tempIsWhole(cd, versionOf(props)+1):
			move(currentProps, n+".props")
			finish()
		default:
			move(n, current)
		}

	case has[current]: // state 3
		switch {
		case has[tempProps] && !has[temp] && u.propsFit(cd, current, last):
			move(tempProps, currentProps)
		case has[inactiveProps] && !has[inactive]:
			move(inactiveProps, currentProps)
		}

	case has[inactive] || has[inactiveProps] || last == 0: // inactive, or nothing yet

	case has[temp] && u.tempIsWhole(cd, last+1): // state 2
		finish()

	case has[old+".props"]: // state 2
		// Properties first: after that it is state 1, which also leads back.
		move(old+".props", currentProps)
		move(old, current)
	}
	return steps, nil
}

// recover does what recovery found. Taking back changes no number and no bytes, and finishing
// is what Seal had prepared; sizes were invalidated before the first rename.
func (u *Unit) recover(cd *dir, steps []string) error {
	u.store.log.Warn("storing was interrupted, put in order", "au", u.id, "dir", cd.f.Name(), "renamed", steps)
	for step := range slices.Chunk(steps, 2) {
		if err := u.rename(cd, step[0], step[1]); err != nil {
			return err
		}
	}
	return cd.sync()
}

// tempIsWhole says whether temp is a whole version of this number: by its checksum, and
// without one, as 1.x leaves it, by its length.
func (u *Unit) tempIsWhole(cd *dir, number int) bool {
	props, err := readProps(cd, tempProps)
	if err != nil || versionOf(props) != number {
		return false
	}
	if sum := props[keyChecksum]; sum != "" {
		return matches(cd, temp, sum)
	}
	st, err := cd.stat(temp)
	return err == nil && props["content-length"] == strconv.FormatInt(st.Size, 10)
}

// propsFit says whether temp.props describes the file body, which has lost its own
// properties: by the checksum, and without one because it has the number after last.
func (u *Unit) propsFit(cd *dir, body string, last int) bool {
	props, err := readProps(cd, tempProps)
	if err != nil || versionOf(props) == 0 {
		return false
	}
	if sum := props[keyChecksum]; sum != "" {
		return matches(cd, body, sum)
	}
	return versionOf(props) == last+1
}

// matches says whether a file has this checksum.
func matches(cd *dir, name, sum string) bool {
	got, err := digestFile(cd, name, sum)
	return err == nil && strings.EqualFold(got, sum)
}

// digestFile returns the checksum of a file in the form and algorithm of like ("SHA-1:HEX").
func digestFile(cd *dir, name, like string) (string, error) {
	f, err := cd.open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return digest(f, like)
}

func digest(r io.Reader, like string) (string, error) {
	alg, _, ok := strings.Cut(like, ":")
	if !ok {
		return "", fmt.Errorf("checksum %q is not ALGORITHM:HEX", like)
	}
	newHash, err := lockss.NewHash(alg)
	if err != nil {
		return "", err
	}
	h := newHash()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return alg + ":" + strings.ToUpper(hex.EncodeToString(h.Sum(nil))), nil
}
