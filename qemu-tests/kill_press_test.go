package qemutests

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// A moment of a request at the publisher.
type moment int

const (
	atRequest   moment = iota // the request came
	inBody                    // half of the body was sent
	afterAnswer               // all of it was
)

// press is a publisher whose pages change.
//
//	/docs/lockss-permission.html   statement and link to the index
//	/docs/pages/index.html         links to all pages
//	/docs/pages/p00.html …         page i in edition e: bytes that follow from both
//
// Every second page has a Last-Modified, so that a node asks for it conditionally.
type press struct {
	base string // of all URLs

	mu       sync.Mutex
	editions []int
	served   map[string]bool // checksums of all bytes ever published
	requests int             // since the last at
	trigger  int             // 0: none
	when     moment
	fire     func()
	every    func()
}

const firstPages, mostPages = 12, 24

// openAccess is a permission with which peers give repairs without a history of agreement.
const openAccess = "LOCKSS system has permission to collect, preserve, and serve this open access Archival Unit"

func newPress(t *testing.T, port int) *press {
	p := &press{served: map[string]bool{}, base: fmt.Sprintf("http://127.0.0.1:%d/docs/", port), editions: make([]int, firstPages)}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: p}}
	s.Start()
	t.Cleanup(s.Close)
	return p
}

func (p *press) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.editions)
}

func pageName(i int) string { return fmt.Sprintf("p%02d.html", i) }

// change publishes new editions of some pages, and now and then a new page. It returns the
// pages that were there and changed.
func (p *press) change(rng *rand.Rand) (changed []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.editions {
		if i == 0 || rng.IntN(2) == 0 {
			p.editions[i]++
			changed = append(changed, pageName(i))
		}
	}
	if len(p.editions) < mostPages && rng.IntN(2) == 0 {
		p.editions = append(p.editions, 0)
	}
	return changed
}

// body of a path now; ok is false if there is none.
func (p *press) body(path string) (b []byte, modified time.Time, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch name := strings.TrimPrefix(path, "/docs/"); name {
	case "lockss-permission.html":
		b = fmt.Appendf(nil, "<html><body><p>%s.</p><a href=\"pages/index.html\">pages</a></body></html>\n", openAccess)
	case "pages/index.html":
		var list strings.Builder
		for i := range p.editions {
			fmt.Fprintf(&list, "<a href=\"%s\">%d</a>\n", pageName(i), i)
		}
		b = []byte("<html><body>" + list.String() + "</body></html>\n")
	default:
		for i, e := range p.editions {
			if name == "pages/"+pageName(i) {
				b = edition(i, e)
				if i%2 == 1 {
					modified = time.Date(2026, 1, 1, e, i, 0, 0, time.UTC)
				}
			}
		}
	}
	if b != nil {
		p.served[storeSum(b)] = true
	}
	return b, modified, b != nil
}

// edition gives the bytes of a page: a few kilobytes, every fifth page more than
// one buffer of whoever reads or writes them.
func edition(i, e int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), uint64(e)))
	lines := 10 + rng.IntN(100)
	if i%5 == 4 {
		lines = 2500
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "<html><body><h1>page %d, edition %d</h1>\n", i, e)
	for range lines {
		fmt.Fprintf(&b, "<p>%016x%016x%016x%016x</p>\n", rng.Uint64(), rng.Uint64(), rng.Uint64(), rng.Uint64())
	}
	b.WriteString("</body></html>\n")
	return b.Bytes()
}

// storeSum is a checksum in the form of the store.
func storeSum(b []byte) string { return fmt.Sprintf("SHA-256:%X", sha256.Sum256(b)) }

// published says whether bytes with this checksum were ever given out.
func (p *press) published(sum string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.served[sum]
}

// at has fire called at that moment of the n-th request from now on.
func (p *press) at(n int, when moment, fire func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests, p.trigger, p.when, p.fire = 0, n, when, fire
}

// each has f called at the beginning of every request.
func (p *press) each(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.every = f
}

// calm takes back at and each.
func (p *press) calm() {
	p.at(0, atRequest, nil)
	p.each(nil)
}

func (p *press) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.requests++
	when, fire, every := p.when, p.fire, p.every
	if p.requests != p.trigger {
		fire = nil
	}
	p.mu.Unlock()
	if every != nil {
		every()
	}
	if fire != nil && when == atRequest {
		fire()
		return
	}
	b, modified, ok := p.body(r.URL.Path)
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/html")
	if fire != nil && when == inBody {
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		w.Write(b[:len(b)/2])
		http.NewResponseController(w).Flush()
		fire()
		return
	}
	http.ServeContent(w, r, r.URL.Path, modified, bytes.NewReader(b))
	if fire != nil {
		http.NewResponseController(w).Flush()
		fire()
	}
}
