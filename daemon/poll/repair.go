package poll

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"armarium/daemon/lcap"
)

// repairState is where one repair stands.
type repairState int

const (
	repairQueued    repairState = iota
	repairAsked                 // of a peer or the publisher
	repairStoring               // a peer's copy is being made durable
	repairVerifying             // stored, being hashed again
	repairVerified
	repairDisputed
	repairFailed
)

var repairStateNames = [...]string{"queued", "asked", "storing", "verifying", RepairVerified, RepairDisputed, RepairFailed}

func (s repairState) String() string { return repairStateNames[s] }

// repair is one URL that the poll lost.
type repair struct {
	url     string
	from    *participant // nil: the publisher
	state   repairState
	outcome Outcome // at present
	old     string  // plain digest of our newest version before
	new     string
	reason  string
	listed  int // place in Poller.listed, -1: none
}

func (r *repair) open() bool { return r.state < repairVerified }

// act does what the result of a URL demands (lcap-v3.md 14.1). A URL that only we hold is kept:
// nothing preserved is deleted.
func (p *Poller) act(url string, o Outcome, c Count, own *lcap.HashedBlock, at int) {
	switch o {
	case Lost:
		p.queue(url, o, own, at, p.supported(url, own, c, p.with(Disagree)), true)
	case LostVoterOnly:
		p.queue(url, o, own, at, p.supported(url, own, c, p.with(VoterOnly)), true)
	case NoQuorum:
		if p.c.PublisherDown && c.Votes() > 0 && c.VoterOnly == c.Votes() && p.c.MinReplicasNoQuorum > 0 {
			if list := p.ranked(url, p.with(VoterOnly), p.c.MinReplicasNoQuorum); len(list) > 0 {
				p.queue(url, o, own, at, list[:1], false)
			}
		}
	case TooClose:
		if p.c.RepairTooClose && !p.c.PublisherDown {
			p.queue(url, o, own, at, nil, true)
		}
	}
}

// with returns the places of the voters with this verdict on the URL at hand.
func (p *Poller) with(want Verdict) []int {
	var out []int
	for i, v := range p.verdicts {
		if v == want {
			out = append(out, i)
		}
	}
	return out
}

// newest returns the plain digest of a voter's newest version, nil if it has none.
func (p *Poller) newest(i int, url string) []byte {
	b := p.voters[i].vote
	if n, ok := b.find(url); ok {
		if v := b.versions(n); len(v) > 0 && !v[0].Err {
			return v[0].Plain
		}
	}
	return nil
}

// holders counts the voters that hold a plain digest in any version.
func (p *Poller) holders(url string, digest []byte) int {
	n := 0
	for _, q := range p.voters {
		if at, ok := q.vote.find(url); ok && slices.ContainsFunc(q.vote.versions(at), func(v lcap.Version) bool {
			return !v.Err && bytes.Equal(v.Plain, digest)
		}) {
			n++
		}
	}
	return n
}

// supported leaves, with useVersionCounts, only candidates whose newest version is held by a
// landslide of the voters and by us in no version (lcap-v3.md 14.1). Without it, it leaves those
// whose newest version could be read.
func (p *Poller) supported(url string, own *lcap.HashedBlock, c Count, list []int) []int {
	return slices.DeleteFunc(list, func(i int) bool {
		d := p.newest(i, url)
		if len(d) == 0 {
			return true
		}
		if !p.c.UseVersionCounts {
			return false
		}
		if own != nil && slices.ContainsFunc(own.Versions, func(v lcap.HashedVersion) bool { return !v.Err && bytes.Equal(v.Plain, d) }) {
			return true
		}
		return p.holders(url, d) < Landslide(c.Votes(), p.c.VoteMargin)
	})
}

// ranked returns the candidates whose newest version is held by at least k voters, the most
// common first.
func (p *Poller) ranked(url string, list []int, k int) []int {
	n := map[int]int{}
	list = slices.DeleteFunc(list, func(i int) bool {
		d := p.newest(i, url)
		if len(d) > 0 {
			n[i] = p.holders(url, d)
		}
		return n[i] < k
	})
	slices.SortStableFunc(list, func(a, b int) int { return n[b] - n[a] })
	return list
}

// queue chooses the source of a repair (lcap-v3.md 14.2) and queues it. Candidates that told
// us that we agree with them come first: the others will say nothing.
func (p *Poller) queue(url string, o Outcome, own *lcap.HashedBlock, at int, list []int, publisher bool) {
	if p.c.MaxRepairs >= 0 && len(p.repairs) >= p.c.MaxRepairs {
		p.skipped++
		return
	}
	r := &repair{url: url, outcome: o, listed: at}
	if own != nil && len(own.Versions) > 0 && !own.Versions[0].Err {
		r.old = hex.EncodeToString(own.Versions[0].Plain)
	}
	publisher = publisher && !p.c.PublisherDown
	usePeer := p.c.RepairFromCache && len(list) > 0
	if usePeer && publisher {
		usePeer = p.c.Rand.Float64() < p.c.RepairFromCacheShare
	}
	switch {
	case usePeer:
		if p.c.Willing != nil {
			if w := slices.DeleteFunc(slices.Clone(list), func(i int) bool { return !p.c.Willing(p.voters[i].id) }); len(w) > 0 {
				list = w
			}
		}
		r.from = p.voters[list[p.c.Rand.IntN(len(list))]]
	case !publisher:
		p.skipped++
		return
	}
	p.repairs = append(p.repairs, r)
	p.byURL[url] = r
	p.show(r)
}

// show brings the list of URLs up to date.
func (p *Poller) show(r *repair) {
	if r.listed < 0 {
		return
	}
	s := &p.listed[r.listed]
	s.Repair = r.state.String()
	if r.reason != "" {
		s.Repair += ": " + r.reason
	}
	if r.from != nil {
		s.From = r.from.id
	}
	if r.state == repairVerified || r.state == repairDisputed {
		s.After = r.outcome.String()
	}
}

// startRepairs sends all requests at once after the tally, or ends the poll if there are none.
func (p *Poller) startRepairs(now time.Time) {
	if len(p.repairs) == 0 {
		p.complete(now)
		return
	}
	p.state, p.pending = WaitingForRepairs, len(p.repairs)
	var urls []string
	for _, r := range p.repairs {
		r.state = repairAsked
		if r.from == nil {
			urls = append(urls, r.url)
		} else {
			m := p.message(now, r.from, lcap.OpRepairReq)
			m.URL = r.url
			p.send(r.from, m, p.deadline.Add(p.c.ExtraPollTime))
		}
		p.show(r)
	}
	if len(urls) > 0 {
		p.emit(Refetch{urls})
	}
}

// repairCame takes a copy that a peer sent: only one that was asked of this very peer and is
// still wanted, and only whole.
func (p *Poller) repairCame(now time.Time, q *participant, m *lcap.Message) {
	r := p.byURL[m.URL]
	switch {
	case r == nil || r.from != q:
		p.emit(Note{Text: "copy that was not asked of this peer, dropped", Peer: q.id, URL: m.URL})
		return
	case r.state != repairAsked:
		p.emit(Note{Text: "copy that is no longer wanted, dropped", Peer: q.id, URL: m.URL})
		return
	case m.RepairProps == nil:
		p.emit(Note{Text: "copy without headers, dropped", Peer: q.id, URL: m.URL})
		return
	case int64(len(m.RepairData)) != m.RepairLength:
		p.emit(Note{Text: fmt.Sprintf("copy of %d bytes announced as %d, dropped", len(m.RepairData), m.RepairLength), Peer: q.id, URL: m.URL})
		return
	}
	props := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(m.RepairProps)) {
		props[strings.ToLower(k)] = m.RepairProps[k]
	}
	props["x-lockss-repaired-from"] = string(q.id)
	props["x-lockss-repaired-date"] = strconv.FormatInt(now.UnixMilli(), 10)
	if u := props["x-lockss-node-url"]; u != r.url+"/" {
		props["x-lockss-node-url"] = r.url
	}
	r.state = repairStoring
	p.show(r)
	p.emit(Store{r.url, props, m.RepairData})
}

func (p *Poller) stored(now time.Time, url string, err error) {
	r := p.byURL[url]
	if r == nil || r.state != repairStoring {
		return
	}
	if err != nil {
		p.settle(now, r, repairFailed, fmt.Sprintf("the copy could not be stored: %v", err))
		return
	}
	p.hashAgain(now, r)
}

func (p *Poller) refetched(now time.Time, url string, err error) {
	r := p.byURL[url]
	if r == nil || r.from != nil || r.state != repairAsked {
		return
	}
	if err != nil {
		p.settle(now, r, repairFailed, fmt.Sprintf("the publisher did not give it: %v", err))
		return
	}
	p.hashAgain(now, r)
}

// hashAgain verifies a repair: that URL alone under the same nonces, not sampled (14.3).
func (p *Poller) hashAgain(now time.Time, r *repair) {
	r.state = repairVerifying
	p.show(r)
	id := p.nextHash
	p.nextHash++
	p.byHash[id] = r
	h := HashRequest{AU: p.c.AU, Algorithm: p.c.HashAlgorithm, Challenges: p.challenges[:len(p.voters)], URL: r.url,
		MaxVersions: 1, Start: now, Deadline: p.deadline.Add(p.c.ExtraPollTime)}
	if p.extended {
		h.Deadline = p.deadline
	}
	if p.c.RepairHashAll {
		h.MaxVersions = 0
	}
	p.emit(Hash{id, h})
}

// verify tallies a repaired URL again, own nil if it is still not here, and moves it to its new
// result. The participants' agreements stay what they were.
func (p *Poller) verify(now time.Time, r *repair, own *lcap.HashedBlock) {
	var c Count
	for i, q := range p.voters {
		pos, found := q.vote.find(r.url)
		c.add(q.vote.judge(own, i, pos, found))
	}
	o := c.Outcome(p.c.Quorum, p.c.VoteMargin)
	p.outcomes[r.outcome]--
	p.outcomes[o]++
	r.outcome = o
	if own != nil && len(own.Versions) > 0 && !own.Versions[0].Err {
		r.new = hex.EncodeToString(own.Versions[0].Plain)
	}
	if o == Won {
		p.settle(now, r, repairVerified, "")
		return
	}
	p.settle(now, r, repairDisputed, "the voters still do not agree")
}

// settle ends a repair; the last one ends the poll.
func (p *Poller) settle(now time.Time, r *repair, s repairState, reason string) {
	p.close(now, r, s, reason)
	if p.pending == 0 && p.state == WaitingForRepairs {
		p.complete(now)
	}
}

// settleOpen ends a repair that is open when the poll ends.
func (p *Poller) settleOpen(now time.Time, r *repair) {
	switch {
	case r.state == repairVerifying:
		p.close(now, r, repairDisputed, "stored, but not verified before the end of the poll")
	case r.state == repairStoring:
		p.close(now, r, repairFailed, "not stored before the end of the poll")
	case r.from == nil:
		p.close(now, r, repairFailed, "nothing came from the publisher")
	default:
		p.close(now, r, repairFailed, "no answer: the peer may not think us entitled")
	}
}

func (p *Poller) close(now time.Time, r *repair, s repairState, reason string) {
	r.state, r.reason = s, reason
	if p.pending > 0 {
		p.pending--
	}
	p.show(r)
	rec := RepairRecord{AU: p.c.AU, URL: r.url, Poll: p.c.Key, At: now, Result: s.String(), Reason: reason, Old: r.old, New: r.new}
	if r.from != nil {
		rec.From = r.from.id
	}
	p.emit(Repaired{rec})
}

// repairSentence tells of the repairs.
func (p *Poller) repairSentence() string {
	if len(p.repairs) == 0 && p.skipped == 0 {
		return ""
	}
	by := map[string]int{}
	var order []string
	count := func(text string) {
		if by[text] == 0 {
			order = append(order, text)
		}
		by[text]++
	}
	for _, r := range p.repairs {
		from := "the publisher"
		if r.from != nil {
			from = string(r.from.id)
		}
		switch r.state {
		case repairVerified:
			count("repaired from " + from)
		case repairDisputed:
			count("stored from " + from + " and still disputed")
		case repairFailed:
			count("not repaired from " + from + " (" + r.reason + ")")
		default:
			count(r.state.String() + " from " + from)
		}
	}
	var t []string
	for _, s := range order {
		t = append(t, fmt.Sprintf("%d %s", by[s], s))
	}
	if p.skipped > 0 {
		t = append(t, fmt.Sprintf("%d left unrepaired for want of a source or beyond the limit", p.skipped))
	}
	return "; " + strings.Join(t, ", ")
}
