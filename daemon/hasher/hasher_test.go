package hasher

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
)

const testAU lockss.AUID = "org|example|P&k~v"

// body is one stored version of the memory unit.
type body struct {
	stored  []byte
	content func() (io.ReadCloser, error) // nil: stored
	suspect bool
}

func plain(s string) body { return body{stored: []byte(s)} }

// memory is a unit, and at the same time the only one of its node.
type memory struct {
	au      lockss.AUID
	urls    map[string][]body // newest first
	broken  map[string]error  // URLs whose versions cannot be listed
	outside func(url string) bool
	keptOut func(url string) bool
	crawl   sync.RWMutex
	during  func(url string) // called for each URL of a walk
}

func (m *memory) Unit(au lockss.AUID) (Unit, bool) { return m, au == m.au }

func (m *memory) BeginHash(ctx context.Context) (func(), error) {
	for !m.crawl.TryRLock() {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
	return m.crawl.RUnlock, nil
}

func (m *memory) Walk(ctx context.Context, fn func(string) error) error {
	urls := slices.Collect(maps.Keys(m.urls))
	urls = slices.AppendSeq(urls, maps.Keys(m.broken))
	slices.SortFunc(urls, lockss.CompareURL)
	for _, u := range urls {
		if m.during != nil {
			m.during(u)
		}
		if err := fn(u); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (m *memory) Versions(url string, max int) ([]Version, error) {
	if err := m.broken[url]; err != nil {
		return nil, err
	}
	var versions []Version
	for _, b := range m.urls[url] {
		open := b.content
		if open == nil {
			open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.stored)), nil }
		}
		versions = append(versions, Version{Size: int64(len(b.stored)), Suspect: b.suspect, Open: open})
	}
	return versions[:min(max, len(versions))], nil
}

func (m *memory) Included(url string) bool          { return m.outside == nil || !m.outside(url) }
func (m *memory) ExcludedFromPolls(url string) bool { return m.keptOut != nil && m.keptOut(url) }
func (m *memory) Bytes() int64 {
	var n int64
	for _, versions := range m.urls {
		n += int64(len(versions[0].stored))
	}
	return n
}

// collect hashes and returns the blocks.
func collect(t testing.TB, h *Hasher, r Request) []lcap.HashedBlock {
	t.Helper()
	var blocks []lcap.HashedBlock
	err := h.Hash(context.Background(), r, func(b lcap.HashedBlock) error {
		blocks = append(blocks, b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return blocks
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// TestBlockHashVectors digests the content of block-hash.json: all algorithms, a filter, a
// compressed body, more versions than are hashed, and a URL outside the crawl rules.
func TestBlockHashVectors(t *testing.T) {
	var file struct {
		Cases []struct {
			Algorithm   string `json:"hash_algorithm"`
			Filter      string
			PollerNonce string `json:"poller_nonce"`
			VoterNonce  string `json:"voter_nonce"`
			VoterNonce2 string `json:"voter_nonce2"`
			MaxVersions int    `json:"max_versions"`
			Content     []struct {
				URL      string
				Stored   []string `json:"stored_versions_oldest_first"`
				Bytes    string   `json:"stored_bytes_hex"`
				Encoding string   `json:"content_encoding"`
			}
			Blocks []struct {
				URL      string
				Versions []struct {
					UL, FL int64
					PH, NH string
					Sym    string `json:"nh_symmetric"`
					Err    bool
				}
			}
		}
	}
	readJSON(t, "block-hash.json", &file)
	space := regexp.MustCompile(`[ \t\n\v\f\r]+`)
	for _, c := range file.Cases {
		name := c.Algorithm + ", filter " + c.Filter
		unit := &memory{au: testAU, urls: map[string][]body{}, outside: func(u string) bool { return strings.HasSuffix(u, "zzoutside") }}
		for _, content := range c.Content {
			stored := [][]byte{unhex(t, content.Bytes)}
			if content.Bytes == "" {
				stored = nil
				for _, s := range content.Stored {
					stored = append(stored, latin1(s))
				}
			}
			for _, b := range slices.Backward(stored) {
				unit.urls[content.URL] = append(unit.urls[content.URL], body{stored: b, content: func() (io.ReadCloser, error) {
					text := b
					if content.Encoding == "gzip" {
						z, err := gzip.NewReader(bytes.NewReader(b))
						if err != nil {
							return nil, err
						}
						if text, err = io.ReadAll(z); err != nil {
							return nil, err
						}
					}
					switch {
					case strings.HasPrefix(c.Filter, "each run of whitespace"):
						text = space.ReplaceAll(text, []byte(" "))
					case c.Filter != "none":
						return nil, fmt.Errorf("filter %q is not known here", c.Filter)
					}
					return io.NopCloser(iotest.OneByteReader(bytes.NewReader(text))), nil
				}})
			}
		}
		h := New(Config{Units: unit, MaxVersions: c.MaxVersions})
		got := collect(t, h, Request{AU: testAU, Algorithm: c.Algorithm, Challenges: [][]byte{
			unhex(t, c.PollerNonce+c.VoterNonce), unhex(t, c.PollerNonce+c.VoterNonce2)}})
		var want []lcap.HashedBlock
		for _, b := range c.Blocks {
			block := lcap.HashedBlock{URL: b.URL}
			for _, v := range b.Versions {
				block.Versions = append(block.Versions, lcap.HashedVersion{Unfiltered: v.UL, Filtered: v.FL, Plain: unhex(t, v.PH),
					Nonced: [][]byte{unhex(t, v.NH), unhex(t, v.Sym)}, Err: v.Err})
			}
			want = append(want, block)
		}
		compare(t, name, got, want)
	}
}

func latin1(s string) []byte {
	var b []byte
	for _, r := range s {
		b = append(b, byte(r))
	}
	return b
}

func compare(t *testing.T, name string, got, want []lcap.HashedBlock) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d blocks, want %d", name, len(got), len(want))
		return
	}
	for i := range want {
		if g, w := fmt.Sprintf("%+v", got[i]), fmt.Sprintf("%+v", want[i]); g != w {
			t.Errorf("%s: block %d is\n%s, want\n%s", name, i, g, w)
		}
	}
}

// TestCaptureAgreeVotes makes the votes of capture 01 from the site and the recorded nonces,
// block for block.
func TestCaptureAgreeVotes(t *testing.T) {
	const au lockss.AUID = "org|example|press|ExamplePressPlugin&base_url~http%3A%2F%2Fpress%2Eexample%2F&volume_name~v1"
	var site []struct {
		Path, File string
		Redirect   string
	}
	readJSON(t, "site/manifest.json", &site)
	unit := &memory{au: au, urls: map[string][]body{}, outside: func(u string) bool { return !strings.HasPrefix(u, "http://press.example/v1/") }}
	files := map[string]string{}
	for _, e := range site {
		files[e.Path] = e.File
	}
	for _, e := range site {
		file := e.File
		if file == "" {
			file = files[strings.TrimPrefix(e.Redirect, "http://press.example")]
		}
		b, err := os.ReadFile(filepath.Join("testdata/site/files", file))
		if err != nil {
			t.Fatalf("%s: %v", e.Path, err)
		}
		// The node URL: without the final slash (repository.md 3.1).
		unit.urls["http://press.example"+strings.TrimSuffix(e.Path, "/")] = []body{{stored: b}}
	}
	h := New(Config{Units: unit})
	votes, err := filepath.Glob("testdata/01-agree/*.bin")
	if err != nil {
		t.Fatal(err)
	}
	var nonces [][]byte // of all voters, as the poller hashes
	var recorded [][]lcap.VoteBlock
	for _, name := range votes {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for r := lcap.NewFrameReader(bytes.NewReader(b), 1<<20); ; {
			f, err := r.Next()
			if err == io.EOF {
				break
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
			if m.Opcode != lcap.OpVote {
				continue
			}
			nonce := slices.Concat(m.PollerNonce, m.VoterNonce)
			nonces, recorded = append(nonces, nonce), append(recorded, m.Blocks)
			var got []lcap.VoteBlock
			for _, b := range collect(t, h, Request{AU: au, Algorithm: m.HashAlgorithm, Challenges: [][]byte{nonce}}) {
				got = append(got, b.VoteBlock(0))
			}
			compareVotes(t, name, got, m.Blocks)
		}
	}
	if len(recorded) != 4 || len(recorded[0]) != 72 {
		t.Fatalf("%d votes, want 4 of 72 blocks", len(recorded))
	}
	// The poller: all challenges in one pass.
	blocks := collect(t, h, Request{AU: au, Challenges: nonces})
	for i, want := range recorded {
		var got []lcap.VoteBlock
		for _, b := range blocks {
			got = append(got, b.VoteBlock(i))
		}
		compareVotes(t, fmt.Sprintf("challenge %d", i), got, want)
	}
}

func compareVotes(t *testing.T, name string, got, want []lcap.VoteBlock) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d blocks, want %d", name, len(got), len(want))
	}
	for i := range want {
		if g, w := fmt.Sprintf("%+v", got[i]), fmt.Sprintf("%+v", want[i]); g != w {
			t.Errorf("%s: block %d is\n%s, want\n%s", name, i, g, w)
		}
	}
}

// TestTranscriptVectorsVotes makes every vote and every set of symmetric blocks of
// transcripts.json from the content of the peer and the recorded nonces, sampled poll
// included.
func TestTranscriptVectorsVotes(t *testing.T) {
	var file struct {
		Polls []struct {
			Name    string
			Content map[lockss.PeerID]map[string]string
			Events  []struct {
				From       lockss.PeerID
				Message    string
				PayloadHex string `json:"payload_hex"`
			}
		}
	}
	readJSON(t, "transcripts.json", &file)
	n := 0
	for _, p := range file.Polls {
		modulus, sample := 0, []byte(nil)
		for _, e := range p.Events {
			if e.Message == "" {
				continue
			}
			m, err := lcap.Decode(unhex(t, e.PayloadHex))
			if err != nil {
				t.Fatal(err)
			}
			if m.Opcode == lcap.OpPoll {
				modulus, sample = m.Modulus, m.SampleNonce
			}
			if len(m.Blocks) == 0 {
				continue
			}
			n++
			challenge := slices.Concat(m.PollerNonce, m.VoterNonce)
			if m.Opcode == lcap.OpEvaluationReceipt {
				challenge = slices.Concat(m.PollerNonce, m.VoterNonce2)
			}
			unit := &memory{au: m.AU, urls: map[string][]body{}}
			for u, content := range p.Content[e.From] {
				unit.urls[u] = []body{{stored: unhex(t, content)}}
			}
			var got []lcap.VoteBlock
			for _, b := range collect(t, New(Config{Units: unit}), Request{AU: m.AU, Algorithm: m.HashAlgorithm,
				Challenges: [][]byte{challenge}, Modulus: modulus, SampleNonce: sample}) {
				got = append(got, b.VoteBlock(0))
			}
			compareVotes(t, p.Name+" "+e.Message, got, m.Blocks)
		}
	}
	if n < 10 {
		t.Errorf("%d votes and receipts, want more", n)
	}
}

// A body that is missing, breaks off, or whose versions cannot be listed is a version with
// Err; the hash goes on (lcap-v3.md 6.2).
func TestUnreadableBodiesAreVersionsWithErr(t *testing.T) {
	broken := errors.New("disk error")
	unit := &memory{au: testAU, broken: map[string]error{"http://x/c": broken}, urls: map[string][]body{
		"http://x/a": {{stored: []byte("gone"), content: func() (io.ReadCloser, error) { return nil, os.ErrNotExist }}, plain("older")},
		"http://x/b": {{stored: []byte("abcdef"), content: func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken))), nil
		}}},
		"http://x/d": {plain("d")},
	}}
	digest := func(s string) []byte { d := sha1.Sum([]byte(s)); return d[:] }
	got := collect(t, New(Config{Units: unit}), Request{AU: testAU, Challenges: [][]byte{[]byte("N")}})
	compare(t, "blocks", got, []lcap.HashedBlock{
		{URL: "http://x/a", Versions: []lcap.HashedVersion{
			{Unfiltered: 4, Plain: digest(""), Nonced: [][]byte{digest("N")}, Err: true},
			{Unfiltered: 5, Filtered: 5, Plain: digest("older"), Nonced: [][]byte{digest("Nolder")}}}},
		{URL: "http://x/b", Versions: []lcap.HashedVersion{{Unfiltered: 6, Filtered: 3, Plain: digest("abc"), Nonced: [][]byte{digest("Nabc")}, Err: true}}},
		{URL: "http://x/c", Versions: []lcap.HashedVersion{{Plain: digest(""), Nonced: [][]byte{digest("N")}, Err: true}}},
		{URL: "http://x/d", Versions: []lcap.HashedVersion{{Unfiltered: 1, Filtered: 1, Plain: digest("d"), Nonced: [][]byte{digest("Nd")}}}},
	})
}

func TestWhichURLsAndVersions(t *testing.T) {
	unit := &memory{au: testAU, urls: map[string][]body{
		"http://x":       {plain("start page, outside the rules without its slash")},
		"http://x/a":     {plain("3"), {stored: []byte("2"), suspect: true}, plain("1")},
		"http://x/a/b":   {plain("b")},
		"http://x/a-b":   {{stored: []byte("s"), suspect: true}},
		"http://x/login": {plain("session")},
	}, outside: func(u string) bool { return !strings.HasPrefix(u, "http://x/") }, keptOut: func(u string) bool { return u == "http://x/login" }}
	show := func(h *Hasher, r Request) string {
		r.AU = testAU
		var parts []string
		for _, b := range collect(t, h, r) {
			parts = append(parts, fmt.Sprintf("%s:%d", b.URL, len(b.Versions)))
		}
		return strings.Join(parts, " ")
	}
	h := New(Config{Units: unit, MaxVersions: 2})
	for _, c := range []struct {
		name string
		h    *Hasher
		r    Request
		want string
	}{
		{"rules see the node URL, suspects are left out and older ones move up", h, Request{}, "http://x/a:2 http://x/a/b:1 http://x/a-b:0"},
		{"suspects kept", New(Config{Units: unit, KeepSuspect: true}), Request{}, "http://x/a:3 http://x/a/b:1 http://x/a-b:1"},
		{"newest only", h, Request{MaxVersions: 1}, "http://x/a:1 http://x/a/b:1 http://x/a-b:0"},
		{"one URL", h, Request{URL: "http://x/a", MaxVersions: 1}, "http://x/a:1"},
		{"one URL that is not held", h, Request{URL: "http://x/z"}, ""},
		{"one URL outside the rules", h, Request{URL: "http://x"}, ""},
	} {
		if got := show(c.h, c.r); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// Large bodies go another way, side by side; the digests are the same.
func TestLargeBodies(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	unit := &memory{au: testAU, urls: map[string][]body{}}
	challenges := make([][]byte, 7)
	for i := range challenges {
		challenges[i] = fmt.Appendf(nil, "challenge %d", i)
	}
	for _, size := range []int{0, 1, bufferSize, sharedSize - 1, sharedSize, sharedSize + 1, 5*bufferSize + 77, turnSize + 3} {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		unit.urls[fmt.Sprintf("http://x/%08d", size)] = []body{{stored: b, content: func() (io.ReadCloser, error) {
			return io.NopCloser(iotest.HalfReader(bytes.NewReader(b))), nil
		}}}
	}
	for _, block := range collect(t, New(Config{Units: unit}), Request{AU: testAU, Challenges: challenges}) {
		b := unit.urls[block.URL][0].stored
		v := block.Versions[0]
		if want := sha1.Sum(b); !bytes.Equal(v.Plain, want[:]) || v.Filtered != int64(len(b)) || v.Err {
			t.Errorf("%s: plain digest %x over %d bytes, want %x", block.URL, v.Plain, v.Filtered, want)
		}
		for i, c := range challenges {
			if want := sha1.Sum(slices.Concat(c, b)); !bytes.Equal(v.Nonced[i], want[:]) {
				t.Errorf("%s: digest %d is %x, want %x", block.URL, i, v.Nonced[i], want)
			}
		}
	}
}

func TestHashErrors(t *testing.T) {
	unit := &memory{au: testAU, urls: map[string][]body{"http://x/a": {plain("a")}, "http://x/b": {plain("b")}}}
	h := New(Config{Units: unit})
	never := func(lcap.HashedBlock) error { t.Error("emitted"); return nil }
	ctx := context.Background()
	if err := h.Hash(ctx, Request{AU: "other"}, never); !errors.Is(err, ErrNoAU) {
		t.Errorf("unknown unit: %v, want %v", err, ErrNoAU)
	}
	if err := h.Hash(ctx, Request{AU: testAU, Algorithm: "CRC"}, never); err == nil || !strings.Contains(err.Error(), "CRC") {
		t.Errorf("unknown algorithm: %v", err)
	}
	if err := h.Hash(ctx, Request{AU: testAU, Deadline: time.Now().Add(-time.Second)}, never); !errors.Is(err, ErrTimeout) {
		t.Errorf("deadline passed: %v, want %v", err, ErrTimeout)
	}
	full := errors.New("disk full")
	if err := h.Hash(ctx, Request{AU: testAU}, func(lcap.HashedBlock) error { return full }); !errors.Is(err, full) {
		t.Errorf("emit fails: %v, want %v", err, full)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := h.Hash(canceled, Request{AU: testAU}, never); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v, want %v", err, context.Canceled)
	}
	if err := h.Run(canceled); err != nil {
		t.Error(err)
	}
	if err := h.Hash(ctx, Request{AU: testAU}, never); !errors.Is(err, ErrStopped) {
		t.Errorf("after the end: %v, want %v", err, ErrStopped)
	}
}

func TestHashWaitsForStartAndCrawl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unit := &memory{au: testAU, urls: map[string][]body{"http://x/a": {plain("a")}}}
		h := New(Config{Units: unit})
		begin := time.Now()
		unit.crawl.Lock()
		time.AfterFunc(3*time.Minute, unit.crawl.Unlock)
		var at time.Duration
		err := h.Hash(context.Background(), Request{AU: testAU, Start: begin.Add(30 * time.Second), Deadline: begin.Add(time.Hour)},
			func(lcap.HashedBlock) error { at = time.Since(begin); return nil })
		if err != nil || at < 3*time.Minute || at > 4*time.Minute {
			t.Errorf("hashed after %v, %v, want after the crawl of 3m", at, err)
		}
		unit.crawl.Lock()
		deadline := time.Now().Add(time.Minute)
		err = h.Hash(context.Background(), Request{AU: testAU, Deadline: deadline}, func(lcap.HashedBlock) error { return nil })
		if !errors.Is(err, ErrTimeout) || !errors.Is(err, ErrNoTime) {
			t.Errorf("crawled beyond the deadline: %v, want %v and %v", err, ErrTimeout, ErrNoTime)
		}
		// A hash that is given up while it waits leaves no promise behind.
		deadline = time.Now().Add(time.Hour)
		if err := h.Reserve(testAU, time.Now(), deadline, 40*time.Minute); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = h.Hash(ctx, Request{AU: testAU, Deadline: deadline}, func(lcap.HashedBlock) error { return nil })
		if errors.Is(err, ErrNoTime) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("given up: %v, want %v alone", err, context.DeadlineExceeded)
		}
		if err := h.Reserve(testAU, time.Now(), deadline, 40*time.Minute); err != nil {
			t.Errorf("after the hash was given up: %v", err)
		}
	})
}

func TestRunEndsHashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unit := &memory{au: testAU, urls: map[string][]body{"http://x/a": {plain("a")}}}
		h := New(Config{Units: unit})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() {
			ended <- h.Hash(context.Background(), Request{AU: testAU, Start: time.Now().Add(time.Hour)}, func(lcap.HashedBlock) error { return nil })
		}()
		time.AfterFunc(time.Minute, cancel)
		if err := h.Run(ctx); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, ErrStopped) {
			t.Errorf("%v, want %v", err, ErrStopped)
		}
	})
}

// Two hashes at once: the one with the earlier deadline runs, though it came later.
func TestEarliestDeadlineFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(s string) body {
			return body{stored: []byte(s), content: func() (io.ReadCloser, error) {
				time.Sleep(time.Minute)
				return io.NopCloser(strings.NewReader(s)), nil
			}}
		}
		unit := &memory{au: testAU, urls: map[string][]body{}}
		for i := range 20 {
			unit.urls[fmt.Sprintf("http://x/%02d", i)] = []body{slow("x")}
		}
		h := New(Config{Units: unit})
		var mu sync.Mutex
		var order []string
		var all sync.WaitGroup
		hash := func(name string, deadline time.Time) {
			all.Go(func() {
				err := h.Hash(context.Background(), Request{AU: testAU, Deadline: deadline}, func(lcap.HashedBlock) error { return nil })
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, name)
			})
		}
		now := time.Now()
		hash("no deadline", time.Time{})
		time.Sleep(90 * time.Second)
		hash("late", now.Add(10*time.Hour))
		time.Sleep(90 * time.Second)
		hash("soon", now.Add(5*time.Hour))
		synctest.Wait()
		if running := h.Running(); len(running) != 3 || !running[0].Deadline.Equal(now.Add(5*time.Hour)) {
			t.Errorf("running %+v, want the earliest deadline first", running)
		}
		all.Wait()
		if want := []string{"soon", "late", "no deadline"}; !slices.Equal(order, want) {
			t.Errorf("finished in the order %v, want %v", order, want)
		}
	})
}

func TestReserveAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Config{Units: &memory{}, OverheadLoad: 0.2})
		now := time.Now()
		at := func(d time.Duration) time.Time { return now.Add(d) }
		for _, c := range []struct {
			name               string
			start, deadline, d time.Duration
			fits               bool
		}{
			{"longer than its window at a load of 0.8", 0, 10 * time.Hour, 9 * time.Hour, false},
			{"first", 0, 10 * time.Hour, 4 * time.Hour, true},                             // takes 5 h
			{"more urgent, goes first", time.Hour, 3 * time.Hour, 96 * time.Minute, true}, // takes 2 h
			{"would make the first late", 0, 9 * time.Hour, 150 * time.Minute, false},
			{"fills the day", 0, 10 * time.Hour, 144 * time.Minute, true}, // takes 3 h
			{"nothing left", 0, 10 * time.Hour, time.Minute, false},
			{"after it all", 10 * time.Hour, 12 * time.Hour, 90 * time.Minute, true},
			{"window in the past", -2 * time.Hour, -time.Hour, time.Minute, false},
		} {
			err := h.Reserve(lockss.AUID(c.name), at(c.start), at(c.deadline), c.d)
			if (err == nil) != c.fits || err != nil && !errors.Is(err, ErrNoTime) {
				t.Errorf("%s: %v, want it to fit: %v", c.name, err, c.fits)
			}
		}
		h.Release("fills the day", at(10*time.Hour))
		if err := h.Reserve("in its place", now, at(10*time.Hour), 2*time.Hour); err != nil {
			t.Errorf("after a release: %v", err)
		}
		time.Sleep(11 * time.Hour) // promises that were not used lapse
		if err := h.Reserve("afterwards", time.Now(), at(13*time.Hour), 10*time.Minute); err != nil {
			t.Errorf("after the deadlines: %v", err)
		}
		h.cfg.MaxReservation = 1
		if err := h.Reserve("one too many", time.Now(), at(100*time.Hour), time.Minute); !errors.Is(err, ErrNoTime) {
			t.Errorf("too many: %v, want %v", err, ErrNoTime)
		}
	})
}

// A hash uses the promise made for it, and ends it.
func TestHashUsesItsReservation(t *testing.T) {
	unit := &memory{au: testAU, urls: map[string][]body{"http://x/a": {plain("a")}}}
	h := New(Config{Units: unit})
	deadline := time.Now().Add(time.Hour)
	if err := h.Reserve(testAU, time.Now(), deadline, 50*time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := h.Reserve(testAU, time.Now(), deadline, 50*time.Minute); !errors.Is(err, ErrNoTime) {
		t.Errorf("beside the promise: %v, want %v", err, ErrNoTime)
	}
	collect(t, h, Request{AU: testAU, Deadline: deadline})
	if err := h.Reserve(testAU, time.Now(), deadline, 50*time.Minute); err != nil {
		t.Errorf("after the hash: %v", err)
	}
}

// Estimates of lcap-v3.md 12.1.
func TestEstimates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pace := 10 * time.Minute
		unit := &memory{au: testAU, urls: map[string][]body{"http://x/a": {{stored: make([]byte, 250_000), content: func() (io.ReadCloser, error) {
			return io.NopCloser(&slowReader{pace: pace / 100, left: 100}), nil
		}}}}}
		saved := map[lockss.AUID]time.Duration{}
		h := New(Config{Units: unit, PadPercent: 10, PadConstant: 10 * time.Millisecond,
			HashTime:    func(au lockss.AUID) time.Duration { return saved[au] },
			SetHashTime: func(au lockss.AUID, d time.Duration) { saved[au] = d }})
		check := func(name string, raw time.Duration) {
			t.Helper()
			if got, want := h.Estimate(testAU), raw+raw/10+10*time.Millisecond; got != want {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
		if h.Estimate("not held") != 10*time.Millisecond {
			t.Error("a unit that is not held has an estimate")
		}
		check("by size, 250 bytes per ms", time.Second)
		collect(t, h, Request{AU: testAU})
		check("first hash counts alone", 10*time.Minute)
		pace = 20 * time.Minute
		collect(t, h, Request{AU: testAU})
		check("mean with the one before", 15*time.Minute)
		collect(t, h, Request{AU: testAU, URL: "http://x/a"})
		collect(t, h, Request{AU: testAU, Modulus: 2, SampleNonce: []byte("s")})
		check("parts do not count", 15*time.Minute)

		timeout := func(after time.Duration) {
			t.Helper()
			err := h.Hash(context.Background(), Request{AU: testAU, Deadline: time.Now().Add(after)}, func(lcap.HashedBlock) error { return nil })
			if !errors.Is(err, ErrTimeout) {
				t.Errorf("%v, want %v", err, ErrTimeout)
			}
		}
		timeout(5*time.Minute - time.Second)
		check("a timeout shorter than the estimate does not count", 15*time.Minute)
		timeout(18*time.Minute - time.Second)
		check("a longer one counts one and a half times", 27*time.Minute)
		if saved[testAU] != 27*time.Minute {
			t.Errorf("saved %v", saved)
		}
		again := New(Config{Units: unit, HashTime: h.cfg.HashTime})
		if got := again.Estimate(testAU); got != 27*time.Minute {
			t.Errorf("after a restart: %v, want 27m", got)
		}
	})
}

// slowReader gives one byte in each pace.
type slowReader struct {
	pace time.Duration
	left int
}

func (r *slowReader) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(r.pace)
	r.left--
	b[0] = 'x'
	return 1, nil
}

// Memory does not grow with the unit: what is under way is bounded by the number of cores.
func TestMemoryIsFlat(t *testing.T) {
	unit := &memory{au: testAU, urls: map[string][]body{}}
	for i := range 2000 {
		unit.urls[fmt.Sprintf("http://x/%04d", i)] = []body{plain("content")}
	}
	var mu sync.Mutex
	walked, emitted, most := 0, 0, 0
	unit.during = func(string) {
		mu.Lock()
		defer mu.Unlock()
		walked++
		most = max(most, walked-emitted)
	}
	err := New(Config{Units: unit}).Hash(context.Background(), Request{AU: testAU}, func(lcap.HashedBlock) error {
		mu.Lock()
		defer mu.Unlock()
		emitted++
		return nil
	})
	if limit := 4*runtime.GOMAXPROCS(0) + 4; err != nil || emitted != 2000 || most > limit {
		t.Errorf("%d of 2000 emitted, %v; the walk was %d ahead, want at most %d", emitted, err, most, limit)
	}
}

// BenchmarkHashUnit hashes units of many small and of few large bodies, as a voter (one
// challenge) and as a poller (ten).
func BenchmarkHashUnit(b *testing.B) {
	for _, shape := range []struct {
		name        string
		urls, bytes int
	}{{"small", 2000, 16 << 10}, {"large", 4, 8 << 20}} {
		unit := &memory{au: testAU, urls: map[string][]body{}}
		content := bytes.Repeat([]byte("0123456789abcdef"), shape.bytes/16)
		for i := range shape.urls {
			unit.urls[fmt.Sprintf("http://x/%04d", i)] = []body{{stored: content}}
		}
		for _, challenges := range []int{1, 10} {
			b.Run(fmt.Sprintf("%s/challenges=%d", shape.name, challenges), func(b *testing.B) {
				h := New(Config{Units: unit})
				r := Request{AU: testAU}
				for range challenges {
					r.Challenges = append(r.Challenges, lockss.NewNonce())
				}
				b.SetBytes(int64(shape.urls * shape.bytes))
				b.ReportAllocs()
				for b.Loop() {
					if err := h.Hash(context.Background(), r, func(lcap.HashedBlock) error { return nil }); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
