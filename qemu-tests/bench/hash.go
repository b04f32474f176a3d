package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"armarium/daemon/hasher"
	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
	"armarium/daemon/store"
)

const (
	hashRounds = 7
	hashLarge  = 8        // bodies of random bytes beside the pages, as PDFs are
	largeSize  = 32 << 20 // bytes of each
)

// hash digests one archival unit: the pages of the documentation and some large files.
func (b *bench) hash(ctx context.Context) error {
	dir, err := b.scratch("hash")
	if err != nil {
		return err
	}
	s, err := store.Open(store.Config{Roots: []string{dir}})
	if err != nil {
		return err
	}
	defer s.Close()
	u, err := s.Create("bench&unit~hash", "")
	if err != nil {
		return err
	}
	bytes, err := b.fill(u)
	if err != nil {
		return err
	}
	var bodies []string
	err = filepath.WalkDir(u.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "current" {
			bodies = append(bodies, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	b.say("hash: %d bodies of %.1f MB, in memory after the first round", len(bodies), float64(bytes)/1e6)
	h := hasher.New(hasher.Config{Units: oneUnit{u}})
	for _, alg := range []struct{ name, openssl string }{{"SHA-1", "-sha1"}, {"SHA-256", "-sha256"}} {
		ours := func(ctx context.Context) (float64, error) {
			began, n := time.Now(), 0
			challenge := append(lockss.NewNonce(), lockss.NewNonce()...)
			err := h.Hash(ctx, hasher.Request{AU: u.ID(), Algorithm: alg.name, Challenges: [][]byte{challenge}}, func(bl lcap.HashedBlock) error {
				for _, v := range bl.Versions {
					if v.Err || len(v.Nonced) != 1 || len(v.Plain) == 0 {
						return fmt.Errorf("%s was not hashed", bl.URL)
					}
				}
				n++
				return nil
			})
			if err == nil && n != len(bodies) {
				err = fmt.Errorf("%d blocks of %d URLs", n, len(bodies))
			}
			return float64(bytes) / 1e6 / time.Since(began).Seconds(), err
		}
		peer := func(ctx context.Context) (float64, error) {
			began := time.Now()
			err := quiet(ctx, "openssl", append([]string{"dgst", alg.openssl}, bodies...)...)
			return float64(bytes) / 1e6 / time.Since(began).Seconds(), err
		}
		what := "hash " + alg.name
		o, p, err := b.rounds(ctx, what, "MB/s", hashRounds, ours, peer)
		if err != nil {
			return err
		}
		b.add(what, "MB/s", higher, o, p, "openssl dgst "+alg.openssl+" of the same files: one digest of each on one core; ours makes two, plain and with a challenge, on all")
	}
	return nil
}

// fill puts the documentation's pages and some large bodies into a unit.
func (b *bench) fill(u *store.Unit) (total int64, err error) {
	put := func(url string, r io.Reader) error {
		w, err := u.New(url)
		if err != nil {
			return err
		}
		defer w.Abandon()
		n, err := io.Copy(w, r)
		if err != nil {
			return err
		}
		total += n
		_, err = w.Seal(nil)
		return err
	}
	root := filepath.Join(b.tree, "library")
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return put("http://docs.example.org/library"+strings.TrimPrefix(path, root), f)
	})
	if err != nil {
		return 0, err
	}
	for i := range hashLarge {
		var seed [32]byte
		seed[0] = byte(i)
		r := io.LimitReader(rand.NewChaCha8(seed), largeSize)
		if err := put(fmt.Sprintf("http://docs.example.org/large/%d.pdf", i), r); err != nil {
			return 0, err
		}
	}
	return total, nil
}

// oneUnit shows a unit of a store to the hasher; every URL belongs to the vote.
type oneUnit struct{ content *store.Unit }

func (o oneUnit) Unit(id lockss.AUID) (hasher.Unit, bool)              { return o, id == o.content.ID() }
func (o oneUnit) BeginHash(ctx context.Context) (func(), error)        { return func() {}, ctx.Err() }
func (o oneUnit) Walk(ctx context.Context, f func(string) error) error { return o.content.Walk(ctx, f) }
func (o oneUnit) Included(string) bool                                 { return true }
func (o oneUnit) ExcludedFromPolls(string) bool                        { return false }
func (o oneUnit) Bytes() int64                                         { return 0 }
func (o oneUnit) Versions(url string, most int) ([]hasher.Version, error) {
	found, err := o.content.Versions(url, most)
	if errors.Is(err, store.ErrNotPreserved) {
		return nil, nil
	}
	var list []hasher.Version
	for _, v := range found {
		list = append(list, hasher.Version{Size: v.Size, Open: v.OpenContent})
	}
	return list, err
}
