// Package hasher digests archival units for polls (lcap-v3.md 6 and 12).
//
// One pass over a unit gives, for each URL and version, the plain digest and one digest for
// each challenge: H(challenge ‖ content). Blocks come in canonical order of their URLs. A
// version that cannot be read is a version with Err, never an error of the hash.
//
//	Reserve   may a hash of this length run in this window, beside those already promised?
//	Hash      wait for the start, lock the unit against crawls, read, digest, emit blocks
//	Estimate  how long the next will take, from how long the last ones took
//
// Several hashes may be under way; the one with the earliest deadline runs, the others stand
// still meanwhile (earliest deadline first). The one that runs has all cores: URLs are
// digested side by side, and so are the digests of a large body. Memory is a few buffers for
// each core, whatever the size of the unit.
package hasher

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
)

// States of a request that callers ask about.
var (
	ErrNoAU    = errors.New("archival unit is not held")
	ErrTimeout = errors.New("hash not finished at its deadline")
	ErrNoTime  = errors.New("hash does not fit into the schedule")
	ErrStopped = errors.New("hasher stopped")
)

// Units finds the units of this node.
type Units interface {
	// Unit returns a unit; false if it is not held.
	Unit(au lockss.AUID) (Unit, bool)
}

// A Unit is an archival unit as the hasher reads it. Its methods are safe for concurrent use.
type Unit interface {
	// BeginHash waits, as long as ctx allows, until the unit is not being crawled, and keeps
	// crawls away until end is called.
	BeginHash(ctx context.Context) (end func(), err error)
	// Walk calls fn for the node URL of all nodes with content, in canonical order.
	Walk(ctx context.Context, fn func(nodeURL string) error) error
	// Versions returns at most max versions of a URL, newest first; none if it has no
	// content.
	Versions(nodeURL string, max int) ([]Version, error)
	// Included says whether the crawl rules accept the node URL and it is not excluded
	// globally.
	Included(nodeURL string) bool
	// ExcludedFromPolls says whether the plugin keeps the node URL out of polls.
	ExcludedFromPolls(nodeURL string) bool
	// Bytes is the size of the unit, roughly; 0 if unknown.
	Bytes() int64
}

// A Version is one version of a URL.
type Version struct {
	Size    int64 // bytes as stored
	Suspect bool  // recorded as suspect (repository.md 6)
	// Open opens what is hashed: the content with its Content-Encoding undone and the
	// plugin's hash filter applied.
	Open func() (io.ReadCloser, error)
}

// Config is what a Hasher needs and what can be set.
type Config struct {
	Units Units // required

	// HashTime and SetHashTime keep the learnt duration of a unit's hash across restarts
	// (hashDuration in #nodestate.xml); nil: not kept. HashTime gives 0 if none is known.
	HashTime    func(au lockss.AUID) time.Duration
	SetHashTime func(au lockss.AUID, d time.Duration)

	Log *slog.Logger // nil: discard

	MaxVersions    int           `prop:"org.lockss.blockHasher.maxVersions" default:"5"` // of a URL; 0 counts as 5
	KeepSuspect    bool          // set by the node from org.lockss.poll.v3.excludeSuspectVersions=false
	Speed          int           `prop:"org.lockss.metrics.default.hash.speed" default:"250"`    // bytes per ms before anything was measured; 0 counts as 250
	PadPercent     int           `prop:"org.lockss.hasher.estimate.pad.percent" default:"10"`    // added to estimates
	PadConstant    time.Duration `prop:"org.lockss.hasher.estimate.pad.constant" default:"10ms"` // added to estimates
	OverheadLoad   float64       `prop:"org.lockss.scheduler.overheadLoad" default:"0.2"`        // share of time that is not promised
	MaxReservation int           // reservations at once; 0 counts as 1000
}

// A Request says what to hash and when.
type Request struct {
	AU          lockss.AUID
	Algorithm   string   // "" counts as SHA-1
	Challenges  [][]byte // digested before the content: poller nonce ‖ voter nonce
	Modulus     int      // > 0: only the sample (lcap-v3.md 6.5)
	SampleNonce []byte
	URL         string    // only this node URL; "": the whole unit
	MaxVersions int       // 0: as configured
	Start       time.Time // not before
	Deadline    time.Time // zero: none; such a hash runs after all others
}

// Progress is a hash under way.
type Progress struct {
	AU       lockss.AUID
	Began    time.Time
	Deadline time.Time
	URLs     int
	Bytes    int64
	Digests  int // for each version
}

// A Hasher is safe for concurrent use.
type Hasher struct {
	cfg     Config
	log     *slog.Logger
	ctx     context.Context // ends with Run
	stop    context.CancelCauseFunc
	running sync.WaitGroup
	buffers sync.Pool

	mu       sync.Mutex
	stopped  bool
	schedule schedule
	turns    turns
	learnt   map[lockss.AUID]time.Duration
	bytes    int64         // digested by whole hashes,
	busy     time.Duration // in this time
}

// New returns a Hasher that can be used at once. Config.Units must be given.
func New(cfg Config) *Hasher {
	if cfg.MaxVersions == 0 {
		cfg.MaxVersions = 5
	}
	if cfg.Speed == 0 {
		cfg.Speed = 250
	}
	if cfg.MaxReservation == 0 {
		cfg.MaxReservation = 1000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancelCause(context.Background())
	h := &Hasher{cfg: cfg, log: cfg.Log, ctx: ctx, stop: stop, learnt: make(map[lockss.AUID]time.Duration)}
	h.buffers.New = func() any { return new([bufferSize]byte) }
	h.turns.changed = make(chan struct{})
	return h
}

// Run waits for ctx to end, then ends all hashes and waits for them.
func (h *Hasher) Run(ctx context.Context) error {
	<-ctx.Done()
	h.mu.Lock()
	h.stopped = true
	h.mu.Unlock()
	h.stop(ErrStopped)
	h.running.Wait()
	return nil
}

// Running returns the hashes under way, the one that has its turn first.
func (h *Hasher) Running() []Progress {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []Progress
	for _, r := range h.turns.order {
		all = append(all, Progress{AU: r.req.AU, Began: r.began, Deadline: r.req.Deadline,
			URLs: int(r.urls.Load()), Bytes: r.bytes.Load(), Digests: 1 + len(r.req.Challenges)})
	}
	return all
}

// run is one hash under way.
type run struct {
	h       *Hasher
	req     Request
	unit    Unit
	newHash func() hash.Hash
	max     int // versions
	began   time.Time
	spent   time.Duration // time in turn; guarded by Hasher.mu
	urls    atomic.Int64
	bytes   atomic.Int64
}

// Hash digests what r names and calls emit for each URL, in canonical order, one call at a
// time. Errors wrap [ErrNoAU], [ErrTimeout], [ErrStopped], or are those of ctx or emit. A hash
// that had to wait for a crawl until its deadline gives both [ErrNoTime] and ErrTimeout.
func (h *Hasher) Hash(ctx context.Context, r Request, emit func(lcap.HashedBlock) error) error {
	h.mu.Lock()
	if h.stopped {
		h.mu.Unlock()
		return fmt.Errorf("hash %s: %w", r.AU, ErrStopped)
	}
	h.running.Add(1)
	h.mu.Unlock()
	defer h.running.Done()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(h.ctx, func() { cancel(context.Cause(h.ctx)) })()
	if !r.Deadline.IsZero() {
		var end context.CancelFunc
		ctx, end = context.WithDeadlineCause(ctx, r.Deadline, ErrTimeout)
		defer end()
	}
	err := h.hash(ctx, r, emit)
	if err != nil {
		h.Release(r.AU, r.Deadline) // if it has not even begun
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("hash %s: %w", r.AU, err)
	}
	return nil
}

func (h *Hasher) hash(ctx context.Context, r Request, emit func(lcap.HashedBlock) error) error {
	unit, ok := h.cfg.Units.Unit(r.AU)
	if !ok {
		return ErrNoAU
	}
	if r.Algorithm == "" {
		r.Algorithm = "SHA-1"
	}
	newHash, err := lockss.NewHash(r.Algorithm)
	if err != nil {
		return err
	}
	if wait := time.Until(r.Start); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	end, err := unit.BeginHash(ctx)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, ErrTimeout) {
			return fmt.Errorf("the unit was being crawled all the time: %w, %w", ErrNoTime, cause)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	defer end()

	this := &run{h: h, req: r, unit: unit, newHash: newHash, max: r.MaxVersions, began: time.Now()}
	if this.max <= 0 {
		this.max = h.cfg.MaxVersions
	}
	task := h.enter(this)
	err = this.blocks(ctx, emit)
	h.leave(this, task, err)
	return err
}

// A future is the block of one URL on its way.
type future struct {
	url   string
	done  chan struct{}
	block lcap.HashedBlock
	none  bool  // the URL has no content
	err   error // of ctx
}

// blocks walks the unit, digests the URLs side by side and emits their blocks in order.
func (r *run) blocks(ctx context.Context, emit func(lcap.HashedBlock) error) error {
	ctx, cancel := context.WithCancel(ctx)
	cores := runtime.GOMAXPROCS(0)
	jobs := make(chan *future)
	order := make(chan *future, 2*cores) // how far the walk may be ahead
	var workers sync.WaitGroup
	defer workers.Wait()
	defer cancel()

	var walked error
	workers.Go(func() {
		defer close(order)
		defer close(jobs)
		walked = r.walk(ctx, func(url string) error {
			f := &future{url: url, done: make(chan struct{})}
			for _, to := range []chan *future{order, jobs} {
				select {
				case to <- f:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	})
	for range cores {
		workers.Go(func() {
			d := r.newDigester()
			for f := range jobs {
				f.block, f.none, f.err = r.block(ctx, d, f.url)
				close(f.done)
			}
		})
	}
	for f := range order {
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if f.err != nil {
			return f.err
		}
		if f.none {
			continue
		}
		r.urls.Add(1)
		if err := emit(f.block); err != nil {
			return err
		}
	}
	return walked
}

// walk calls fn for every URL that belongs to the vote (lcap-v3.md 6.3, 6.5). All rules see
// the node URL.
func (r *run) walk(ctx context.Context, fn func(url string) error) error {
	wanted := func(url string) error {
		if !r.unit.Included(url) || r.unit.ExcludedFromPolls(url) || !lockss.InSample(r.newHash, r.req.SampleNonce, r.req.Modulus, url) {
			return nil
		}
		return fn(url)
	}
	if r.req.URL != "" {
		return wanted(r.req.URL)
	}
	return r.unit.Walk(ctx, wanted)
}

// block digests the versions of one URL.
func (r *run) block(ctx context.Context, d *digester, url string) (block lcap.HashedBlock, none bool, err error) {
	block.URL = url
	versions, err := r.versions(url)
	if err != nil {
		r.h.log.Warn("URL cannot be read", "au", r.req.AU, "url", url, "err", err)
		block.Versions = []lcap.HashedVersion{d.failed(0)}
		return block, false, nil
	}
	if versions == nil {
		return block, true, nil
	}
	for _, v := range versions {
		hashed, err := d.version(ctx, url, v)
		if err != nil {
			return block, false, err
		}
		block.Versions = append(block.Versions, hashed)
	}
	return block, false, nil
}

// versions returns the versions to digest; nil if the URL has no content, empty but not nil if
// all of them are suspect.
func (r *run) versions(url string) ([]Version, error) {
	versions, err := r.unit.Versions(url, r.max)
	if err != nil || len(versions) == 0 {
		return nil, err
	}
	if r.h.cfg.KeepSuspect {
		return versions[:min(len(versions), r.max)], nil
	}
	good, suspect := make([]Version, 0, len(versions)), false
	for _, v := range versions {
		suspect = suspect || v.Suspect
	}
	if suspect { // older versions move up
		if versions, err = r.unit.Versions(url, 1<<30); err != nil {
			return nil, err
		}
	}
	for _, v := range versions {
		if !v.Suspect && len(good) < r.max {
			good = append(good, v)
		}
	}
	return good, nil
}

const (
	bufferSize = 256 << 10 // bytes read at a time
	sharedSize = 1 << 20   // bodies from this size have their digests computed side by side
	turnSize   = 16 << 20  // bytes digested before looking whether another hash goes first
)

// A digester computes all digests of one version after another.
type digester struct {
	r       *run
	digests []hash.Hash // plain, then one for each challenge
}

func (r *run) newDigester() *digester {
	d := &digester{r: r, digests: make([]hash.Hash, 1+len(r.req.Challenges))}
	for i := range d.digests {
		d.digests[i] = r.newHash()
	}
	return d
}

func (d *digester) reset() {
	for i, h := range d.digests {
		h.Reset()
		if i > 0 {
			h.Write(d.r.req.Challenges[i-1])
		}
	}
}

// sums returns the digests of what was written since reset.
func (d *digester) sums(v *lcap.HashedVersion) {
	size := d.digests[0].Size()
	all := make([]byte, 0, size*len(d.digests))
	for _, h := range d.digests {
		all = h.Sum(all)
	}
	v.Plain = all[:size:size]
	v.Nonced = make([][]byte, len(d.digests)-1)
	for i := range v.Nonced {
		v.Nonced[i] = all[(i+1)*size : (i+2)*size : (i+2)*size]
	}
}

// failed is a version of which nothing could be read.
func (d *digester) failed(size int64) lcap.HashedVersion {
	v := lcap.HashedVersion{Unfiltered: size, Err: true}
	d.reset()
	d.sums(&v)
	return v
}

// version digests one version. The only error is that of ctx.
func (d *digester) version(ctx context.Context, url string, v Version) (lcap.HashedVersion, error) {
	if err := d.r.h.turn(ctx, d.r); err != nil {
		return lcap.HashedVersion{}, err
	}
	body, err := v.Open()
	if err != nil {
		d.r.h.log.Warn("version cannot be opened", "au", d.r.req.AU, "url", url, "err", err)
		return d.failed(v.Size), nil
	}
	defer body.Close()
	out := lcap.HashedVersion{Unfiltered: v.Size}
	d.reset()
	if v.Size >= sharedSize && len(d.digests) > 1 && runtime.GOMAXPROCS(0) > 1 {
		out.Filtered, err = d.readShared(ctx, body)
	} else {
		out.Filtered, err = d.read(ctx, body)
	}
	if ctx.Err() != nil {
		return lcap.HashedVersion{}, ctx.Err()
	}
	if err != nil {
		out.Err = true
		d.r.h.log.Warn("version cannot be read", "au", d.r.req.AU, "url", url, "read", out.Filtered, "err", err)
	}
	d.sums(&out)
	return out, nil
}

// read digests body in this goroutine.
func (d *digester) read(ctx context.Context, body io.Reader) (total int64, err error) {
	buf := d.r.h.buffers.Get().(*[bufferSize]byte)
	defer d.r.h.buffers.Put(buf)
	for err == nil {
		var n int
		n, err = body.Read(buf[:])
		for _, h := range d.digests {
			h.Write(buf[:n])
		}
		if turnErr := d.progress(ctx, &total, n); turnErr != nil {
			return total, turnErr
		}
	}
	if err == io.EOF {
		err = nil
	}
	return total, err
}

// readShared digests body with the digests divided among the cores, and reads ahead
// meanwhile.
func (d *digester) readShared(ctx context.Context, body io.Reader) (total int64, err error) {
	this := d.r.h.buffers.Get().(*[bufferSize]byte)
	next := d.r.h.buffers.Get().(*[bufferSize]byte)
	defer func() {
		d.r.h.buffers.Put(this)
		d.r.h.buffers.Put(next)
	}()
	shares := min(runtime.GOMAXPROCS(0), len(d.digests))
	n, err := readFull(body, this[:])
	for n > 0 {
		var work sync.WaitGroup
		for share := range shares {
			work.Go(func() {
				for i := share; i < len(d.digests); i += shares {
					d.digests[i].Write(this[:n])
				}
			})
		}
		ahead, aheadErr := 0, err
		if err == nil {
			ahead, aheadErr = readFull(body, next[:])
		}
		work.Wait()
		if turnErr := d.progress(ctx, &total, n); turnErr != nil {
			return total, turnErr
		}
		this, next, n, err = next, this, ahead, aheadErr
	}
	if err == io.EOF {
		err = nil
	}
	return total, err
}

// readFull fills b as far as r goes; the error says why not to the end.
func readFull(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var k int
		k, err = r.Read(b[n:])
		n += k
	}
	return n, err
}

// progress counts n bytes and now and then lets a more urgent hash go first.
func (d *digester) progress(ctx context.Context, total *int64, n int) error {
	before := *total / turnSize
	*total += int64(n)
	d.r.bytes.Add(int64(n))
	if *total/turnSize != before {
		return d.r.h.turn(ctx, d.r)
	}
	return ctx.Err()
}
