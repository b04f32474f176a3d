package hasher

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha1"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
	"armarium/daemon/store"
)

// stored is a unit of a real store.
type stored struct{ content *store.Unit }

func (s stored) Unit(au lockss.AUID) (Unit, bool)              { return s, au == s.content.ID() }
func (s stored) BeginHash(ctx context.Context) (func(), error) { return func() {}, ctx.Err() }
func (s stored) Walk(ctx context.Context, fn func(string) error) error {
	return s.content.Walk(ctx, fn)
}
func (s stored) Included(url string) bool      { return strings.HasPrefix(url, "http://press.example/v1/") }
func (s stored) ExcludedFromPolls(string) bool { return false }
func (s stored) Bytes() int64                  { return 0 }
func (s stored) Versions(url string, max int) ([]Version, error) {
	found, err := s.content.Versions(url, max)
	if errors.Is(err, store.ErrNotPreserved) {
		return nil, nil
	}
	var versions []Version
	for _, v := range found {
		versions = append(versions, Version{Size: v.Size, Open: v.OpenContent})
	}
	return versions, err
}

// TestCaptureAgreeVotesFromStore is TestCaptureAgreeVotes with the site in a store on disk,
// collected under its URLs with their slashes; then a body vanishes, and one is stored
// compressed.
func TestCaptureAgreeVotesFromStore(t *testing.T) {
	const au lockss.AUID = "org|example|press|ExamplePressPlugin&base_url~http%3A%2F%2Fpress%2Eexample%2F&volume_name~v1"
	s, err := store.Open(store.Config{Roots: []string{t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	unit, err := s.Create(au, "")
	if err != nil {
		t.Fatal(err)
	}
	put := func(url string, b []byte, encoding string) {
		t.Helper()
		w, err := unit.New(url)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abandon()
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		props := map[string]string{"content-type": "text/html", "x-lockss-node-url": url}
		if encoding != "" {
			props["content-encoding"] = encoding
		}
		if _, err := w.Seal(props); err != nil {
			t.Fatal(err)
		}
	}
	var site []struct{ Path, File, Redirect string }
	readJSON(t, "site/manifest.json", &site)
	files := map[string]string{}
	for _, e := range site {
		files[e.Path] = e.File
	}
	for _, e := range site {
		if !strings.HasPrefix(e.Path, "/v1/") {
			continue
		}
		b, err := os.ReadFile(filepath.Join("testdata/site/files", files[strings.TrimPrefix(e.Redirect, "http://press.example")]+e.File))
		if err != nil {
			t.Fatal(err)
		}
		put("http://press.example"+e.Path, b, "")
	}
	vote := recordedVote(t, "testdata/01-agree/c01-l2i.bin")
	h := New(Config{Units: stored{content: unit}})
	hash := func() (votes []lcap.VoteBlock) {
		for _, b := range collect(t, h, Request{AU: au, Challenges: [][]byte{slices.Concat(vote.PollerNonce, vote.VoterNonce)}}) {
			votes = append(votes, b.VoteBlock(0))
		}
		return votes
	}
	compareVotes(t, "recorded vote", hash(), vote.Blocks)

	// A newer version, compressed: first in its block, with the length stored and the digest
	// of what was compressed.
	target := vote.Blocks[1].URL
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(bytes.Repeat([]byte("new "), 1000)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	put(target, z.Bytes(), "gzip")
	digest := sha1.Sum(bytes.Repeat([]byte("new "), 1000))
	got := hash()
	if v := got[1].Versions; len(v) != 2 || v[0].Unfiltered != int64(z.Len()) || v[0].Filtered != 4000 || !bytes.Equal(v[0].Plain, digest[:]) ||
		!bytes.Equal(v[1].Plain, vote.Blocks[1].Versions[0].Plain) {
		t.Errorf("%s has versions %+v", target, v)
	}

	// A body that vanished.
	gone := vote.Blocks[5].URL
	path := filepath.Join(unit.Dir(), "press.example/http", strings.TrimPrefix(gone, "http://press.example"), "#content/current")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	got = hash()
	if len(got) != len(vote.Blocks) || got[5].URL != gone || len(got[5].Versions) != 1 || !got[5].Versions[0].Err {
		t.Errorf("%d blocks, %+v, want an error with %s alone", len(got), got[5], gone)
	}
}

func recordedVote(t *testing.T, name string) *lcap.Message {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for r := lcap.NewFrameReader(bytes.NewReader(b), 1<<20); ; {
		f, err := r.Next()
		if err == io.EOF {
			t.Fatalf("no vote in %s", name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.Op != lcap.FrameData {
			continue
		}
		m, err := lcap.Decode(f.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if m.Opcode == lcap.OpVote {
			return m
		}
	}
}
