package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"armarium/daemon/lockss"
)

// Walk calls fn for each URL that has a current version, also when its bytes are missing, in
// canonical order (repository.md 9). It reads the tree, and keeps no more of it in memory than
// the names in the directories from the top to where it is. Fn runs on the caller's
// goroutine and may store. An error of fn, of ctx or of reading a directory ends the walk.
func (u *Unit) Walk(ctx context.Context, fn func(nodeURL string) error) error {
	return u.walk(ctx, func(url string, comps []string) error {
		c, err := u.look(comps)
		if errors.Is(err, ErrNotPreserved) {
			return nil
		}
		if err != nil {
			return u.fail("walk", url, err)
		}
		c.close()
		return fn(url)
	}, func(e *LayoutError) {
		u.store.log.Debug("directory is not part of the unit", "au", u.id, "path", e.Path, "err", e.Err)
	})
}

// A child is a directory in the tree and the URL it stands for.
type child struct {
	url   string
	comps []string
}

// walk calls fn for each node with a #content directory, in canonical order, and odd for each
// directory that stands for no URL.
func (u *Unit) walk(ctx context.Context, fn func(url string, comps []string) error, odd func(*LayoutError)) error {
	top, err := u.open()
	if err != nil {
		return fmt.Errorf("walk %s: %w", u.id, u.root.explain(err))
	}
	defer top.close()
	// The first level is the host, the second the scheme, the order is that of URLs.
	hosts, _, err := u.list(top, nil, odd)
	if err != nil {
		return err
	}
	var sites []child
	for _, host := range hosts {
		comps := []string{host}
		schemes, _, err := u.list(top, comps, odd)
		if err != nil {
			return err
		}
		for _, scheme := range schemes {
			sites = append(sites, child{scheme + "://" + host, []string{host, scheme}})
		}
	}
	return u.visit(ctx, top, sites, fn, odd)
}

// visit walks children of one node, and what is below each.
func (u *Unit) visit(ctx context.Context, top *dir, children []child, fn func(string, []string) error, odd func(*LayoutError)) error {
	slices.SortFunc(children, func(a, b child) int { return lockss.CompareURL(a.url, b.url) })
	for _, c := range children {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		// Only what is found again by its URL is part of the unit. That also makes the order
		// strict: two directories cannot stand for one URL.
		if comps, err := urlPath(c.url); err != nil || !slices.Equal(comps, c.comps) {
			odd(&LayoutError{
				Path: top.path(strings.Join(c.comps, "/")),
				Hint: "no URL has this place; move it away from the unit if it is not needed",
				Err:  errors.New("not the directory of a URL"),
			})
			continue
		}
		names, content, err := u.list(top, c.comps, odd)
		if err != nil {
			return err
		}
		if content {
			if err := fn(c.url, c.comps); err != nil {
				return err
			}
		}
		var below []child
		if err := u.below(top, c, "", names, &below, odd); err != nil {
			return err
		}
		if err := u.visit(ctx, top, below, fn, odd); err != nil {
			return err
		}
	}
	return nil
}

// below collects the child nodes of a node from the names in one directory. The parts of a
// long name are put together; they are directories, but not nodes.
func (u *Unit) below(top *dir, parent child, prefix string, names []string, to *[]child, odd func(*LayoutError)) error {
	for _, name := range names {
		comps := append(parent.comps[:len(parent.comps):len(parent.comps)], name)
		part, more := strings.CutSuffix(name, `\`)
		if !more {
			*to = append(*to, child{parent.url + "/" + decodeName(prefix+name), comps})
			continue
		}
		if len(prefix)+len(part) > maxURL {
			odd(&LayoutError{Path: top.path(strings.Join(comps, "/")), Err: errors.New("name longer than any URL")})
			continue
		}
		rest, _, err := u.list(top, comps, odd)
		if err != nil {
			return err
		}
		if err := u.below(top, child{parent.url, comps}, prefix+part, rest, to, odd); err != nil {
			return err
		}
	}
	return nil
}

// list names the directories in one that may lead to nodes, and says whether it has #content.
// A directory that has just gone is empty.
func (u *Unit) list(top *dir, comps []string, odd func(*LayoutError)) (names []string, content bool, err error) {
	d := top
	if len(comps) > 0 {
		if d, err = top.descend(comps); err == nil {
			defer d.close()
		}
	}
	var entries []fs.DirEntry
	if err == nil {
		entries, err = d.entries()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("walk %s: %w", u.id, u.root.explain(misplaced(err)))
	}
	for _, e := range entries {
		switch {
		case e.IsDir() && e.Name() == contentDir:
			content = true
		case e.IsDir():
			names = append(names, e.Name())
		case e.Type()&fs.ModeSymlink != 0:
			odd(&LayoutError{Path: d.path(e.Name()), Hint: "put the directory itself in its place", Err: errors.New("symbolic link is not followed")})
		}
	}
	return names, content, nil
}
