package qemutests

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"armarium/daemon/lockss"
	"armarium/daemon/store"
)

// book is what the node acknowledged, and what the test did to its disk.
type book struct {
	acked   map[string]map[int]string // URL, version: checksum
	damaged map[string]map[int]string // URL, version: checksum of the damaged bytes, "" if they were removed
}

func newBook() *book {
	return &book{acked: map[string]map[int]string{}, damaged: map[string]map[int]string{}}
}

func note(m map[string]map[int]string, url string, n int, sum string) {
	if m[url] == nil {
		m[url] = map[int]string{}
	}
	m[url][n] = sum
}

// broken says whether the test damaged this version.
func (b *book) broken(url string, n int) bool {
	_, ok := b.damaged[url][n]
	return ok
}

// current gives the newest acknowledged version of each URL.
func (b *book) current() map[string]int {
	newest := map[string]int{}
	for url, vs := range b.acked {
		for n := range vs {
			newest[url] = max(newest[url], n)
		}
	}
	return newest
}

// check compares the tree below root with the book. Opening it puts in order what the kill
// interrupted, so root is a copy: the daemon has to do the same with the original.
func (b *book) check(t *testing.T, root string, id lockss.AUID, published func(sum string) bool) (urls, versions int) {
	t.Helper()
	s, err := store.Open(store.Config{Roots: []string{root}})
	if err != nil {
		t.Errorf("the tree does not open: %v", err)
		return 0, 0
	}
	defer s.Close()
	for _, f := range s.Faults() {
		t.Errorf("disk layout: %v", f)
	}
	u, err := s.Unit(id)
	if err != nil {
		t.Error(err)
		return 0, 0
	}
	found := map[string]map[int]bool{}
	err = u.Walk(context.Background(), func(url string) error {
		found[url] = map[int]bool{}
		vs, err := u.Versions(url, 0)
		if err != nil {
			return err
		}
		urls++
		for _, v := range vs {
			versions++
			found[url][v.Number] = true
			b.version(t, v, published)
		}
		return nil
	})
	if err != nil {
		t.Errorf("walk: %v", err)
	}
	for url, vs := range b.acked {
		for n, sum := range vs {
			switch {
			case found[url] == nil:
				t.Errorf("%s is gone, which the node had acknowledged", url)
			case !found[url][n] && !(b.broken(url, n) && b.damaged[url][n] == ""):
				t.Errorf("version %d of %s (%s) is gone, which the node had acknowledged", n, url, sum)
			}
		}
	}
	// The store's own judgement must come to the same.
	err = u.Check(context.Background(), func(p store.Problem) {
		v, err := u.Current(p.URL)
		if p.URL == "" || err != nil || !b.broken(p.URL, v.Number) {
			t.Errorf("%s %s: %v", p.URL, p.Path, p.Err)
		}
	})
	if err != nil {
		t.Errorf("check: %v", err)
	}
	return urls, versions
}

// version checks one version: its bytes against its checksum, and that against what was
// acknowledged of it and what was ever published.
func (b *book) version(t *testing.T, v *store.Version, published func(string) bool) {
	t.Helper()
	sum := v.Props["x-lockss-checksum"]
	if want, ok := b.acked[v.URL][v.Number]; ok && sum != want {
		t.Errorf("version %d of %s has the checksum %s; the node had acknowledged %s", v.Number, v.URL, sum, want)
	}
	if !published(sum) {
		t.Errorf("version %d of %s has the checksum %q, which the publisher's bytes never had", v.Number, v.URL, sum)
	}
	want := sum
	if b.broken(v.URL, v.Number) {
		want = b.damaged[v.URL][v.Number]
	}
	got, err := sumOf(v)
	switch {
	case err != nil && want == "" && errors.Is(err, store.ErrNoBody):
	case err != nil:
		t.Errorf("version %d of %s: %v", v.Number, v.URL, err)
	case got != want:
		t.Errorf("version %d of %s (current %t) has bytes of checksum %s, want %s", v.Number, v.URL, v.Current, got, want)
	}
}

func sumOf(v *store.Version) (string, error) {
	r, err := v.Open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	return storeSum(body), err
}

// copyTree copies a disk of a node that does not run.
func copyTree(t *testing.T, from string) string {
	t.Helper()
	to, err := os.MkdirTemp(t.TempDir(), "copy")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(to, "disk"), os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(to, "disk")
}
