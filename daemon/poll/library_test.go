package poll

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"armarium/daemon/config"
	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
)

// testParams returns the defaults as the tags state them.
func testParams() Params {
	var p Params
	for _, problem := range config.NewSnapshot(nil, "").Fill(&p) {
		panic(problem.String())
	}
	return p
}

func TestDefaults(t *testing.T) {
	p := testParams()
	if p.ReceiptPadding != 5*time.Minute || p.VoterReceiptPadding != 10*time.Minute || p.Quorum != 5 || p.PollInterval != 70*24*time.Hour {
		t.Errorf("%+v", p)
	}
}

// doc is one version of a URL.
type doc struct {
	data   []byte
	props  map[string]string
	broken bool // its bytes cannot be read
}

// library is a unit in memory: for each URL its versions, newest first.
type library struct {
	mu   sync.Mutex
	urls map[string][]doc
}

func newLibrary(bodies map[string]string) *library {
	l := &library{urls: map[string][]doc{}}
	for u, b := range bodies {
		l.put(u, []byte(b), map[string]string{"content-type": "text/plain", "x-lockss-node-url": u})
	}
	return l
}

// put adds a version.
func (l *library) put(url string, data []byte, props map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.urls[url] = slices.Insert(l.urls[url], 0, doc{data: data, props: props})
}

// change alters the newest version in place, as a disk might.
func (l *library) change(url string, f func(*doc)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.urls[url][0])
}

func (l *library) remove(url string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.urls, url)
}

func (l *library) current(url string) (doc, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if v := l.urls[url]; len(v) > 0 && !v[0].broken {
		return v[0], true
	}
	return doc{}, false
}

// hash is the whole hasher: lcap-v3.md 6.
func (l *library) hash(ctx context.Context, r HashRequest, emit func(lcap.HashedBlock) error) error {
	l.mu.Lock()
	all := make(map[string][]doc, len(l.urls))
	for u, v := range l.urls {
		all[u] = slices.Clone(v)
	}
	l.mu.Unlock()
	h, err := lockss.NewHash(r.Algorithm)
	if err != nil {
		return err
	}
	for _, u := range slices.SortedFunc(maps.Keys(all), lockss.CompareURL) {
		if r.URL != "" && u != r.URL || r.Modulus > 0 && !lockss.InSample(h, r.SampleNonce, r.Modulus, u) {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		b := lcap.HashedBlock{URL: u}
		for i, d := range all[u] {
			if i == 5 || r.MaxVersions > 0 && i == r.MaxVersions {
				break
			}
			v := lcap.HashedVersion{Unfiltered: int64(len(d.data)), Filtered: int64(len(d.data)), Err: d.broken}
			digest := func(prefix []byte) []byte {
				x := h()
				x.Write(prefix)
				if !d.broken {
					x.Write(d.data)
				}
				return x.Sum(nil)
			}
			v.Plain = digest(nil)
			for _, c := range r.Challenges {
				v.Nonced = append(v.Nonced, digest(c))
			}
			b.Versions = append(b.Versions, v)
		}
		if err := emit(b); err != nil {
			return err
		}
	}
	return nil
}

var errNotHeld = errors.New("not preserved")
