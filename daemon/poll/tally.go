package poll

import (
	"bytes"
	"encoding/binary"
	"math"
	"sort"

	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
)

// Verdict is how one voter stands to one URL (lcap-v3.md 13.1).
type Verdict byte

// The verdicts.
const (
	Spoiled    Verdict = iota // the vote says nothing about it; counts nowhere
	Agree                     // a version in common
	Disagree                  // both hold it, no version in common
	PollerOnly                // the voter does not hold it
	VoterOnly                 // the poller does not hold it
	Neither                   // both do not hold it, another voter does
)

var verdictNames = [...]string{"spoiled", "agree", "disagree", "poller only", "voter only", "neither"}

func (v Verdict) String() string { return verdictNames[v] }

// MarshalText makes the verdict readable in JSON.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Outcome is the result of one URL (lcap-v3.md 13.2).
type Outcome byte

// The outcomes.
const (
	NoQuorum Outcome = iota
	Won
	LostPollerOnly
	LostVoterOnly
	Lost
	TooClose
	outcomes
)

var outcomeNames = [...]string{"NO_QUORUM", "WON", "LOST_POLLER_ONLY", "LOST_VOTER_ONLY", "LOST", "TOO_CLOSE"}

func (o Outcome) String() string { return outcomeNames[o] }

// MarshalText makes the outcome readable in JSON.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// Count is how many voters stand how to one URL, or to how many URLs one voter stands how.
type Count struct {
	Agree      int `json:"agree"`
	Disagree   int `json:"disagree"`
	PollerOnly int `json:"pollerOnly"`
	VoterOnly  int `json:"voterOnly"`
	Neither    int `json:"neither"`
	Spoiled    int `json:"spoiled"`
}

func (c *Count) add(v Verdict) {
	switch v {
	case Agree:
		c.Agree++
	case Disagree:
		c.Disagree++
	case PollerOnly:
		c.PollerOnly++
	case VoterOnly:
		c.VoterOnly++
	case Neither:
		c.Neither++
	default:
		c.Spoiled++
	}
}

func (c Count) agreeing() int    { return c.Agree + c.Neither }
func (c Count) disagreeing() int { return c.Disagree + c.PollerOnly + c.VoterOnly }

// Votes returns the number of votes that count for a URL.
func (c Count) Votes() int { return c.agreeing() + c.disagreeing() }

// Landslide returns the least number of n votes that decides, for a margin in percent.
func Landslide(n, margin int) int {
	return int(math.Ceil(float64(margin) / 100 * float64(n)))
}

// Outcome decides one URL from its votes.
func (c Count) Outcome(quorum, margin int) Outcome {
	n := c.Votes()
	l := Landslide(n, margin)
	switch {
	case n < quorum:
		return NoQuorum
	case c.agreeing() >= l:
		return Won
	case c.disagreeing() >= l && c.PollerOnly >= l:
		return LostPollerOnly
	case c.disagreeing() >= l && c.VoterOnly >= l:
		return LostVoterOnly
	case c.disagreeing() >= l:
		return Lost
	}
	return TooClose
}

// Fraction returns the agreement of one voter over all URLs (lcap-v3.md 13.4), in single
// precision as it travels and is recorded.
func (c Count) Fraction() float32 {
	if c.Agree == 0 {
		return 0
	}
	return float32(c.Agree) / float32(c.Agree+c.Disagree+c.PollerOnly+c.VoterOnly)
}

// Agrees reports whether two holders of a URL have a version in common: the same plain digest,
// and under challenge i of our own hash the nonced digest that the other claims (lcap-v3.md
// 13.1). Versions with errors and empty digests never count.
func Agrees(own []lcap.HashedVersion, i int, other []lcap.Version) bool {
	for _, v := range other {
		if v.Err || len(v.Plain) == 0 || len(v.Nonced) == 0 {
			continue
		}
		// Of several own versions with one digest the oldest decides, as in 1.x.
		for n := len(own) - 1; n >= 0; n-- {
			o := own[n]
			if o.Err || !bytes.Equal(o.Plain, v.Plain) {
				continue
			}
			if i < len(o.Nonced) && bytes.Equal(o.Nonced[i], v.Nonced) {
				return true
			}
			break
		}
	}
	return false
}

// A ballot is a vote kept compactly: URLs in canonical order, the versions of each packed.
// Large votes of many voters lie in memory at the same time.
type ballot struct {
	urls    []string
	ends    []uint64 // where the versions of URL i end in packed
	packed  []byte
	spoiled bool // what would follow cannot be used
}

// A packed version: flags (1: error), unfiltered and filtered length as varints, and twice a
// length in one byte with a digest.

// maxDigest bounds a digest in bytes; a longer one matches nothing and is dropped.
const maxDigest = 64

func (b *ballot) add(block lcap.VoteBlock) {
	b.urls = append(b.urls, block.URL)
	for _, v := range block.Versions {
		var flags byte
		if v.Err {
			flags = 1
		}
		b.packed = append(b.packed, flags)
		b.packed = binary.AppendUvarint(b.packed, uint64(max(v.Unfiltered, 0)))
		b.packed = binary.AppendUvarint(b.packed, uint64(max(v.Filtered, 0)))
		for _, d := range [][]byte{v.Plain, v.Nonced} {
			if len(d) > maxDigest {
				d = nil
			}
			b.packed = append(b.packed, byte(len(d)))
			b.packed = append(b.packed, d...)
		}
	}
	b.ends = append(b.ends, uint64(len(b.packed)))
}

// newBallot packs a vote. URLs that the votes before have too share their memory. From the
// first block out of order, or without a URL, on nothing is used (lcap-v3.md 5.4).
func newBallot(blocks []lcap.VoteBlock, fault error, before *ballot) *ballot {
	b := &ballot{urls: make([]string, 0, len(blocks)), ends: make([]uint64, 0, len(blocks)),
		packed: make([]byte, 0, 46*len(blocks)), spoiled: fault != nil}
	n := 0
	for i, block := range blocks {
		if block.URL == "" || i > 0 && lockss.CompareURL(blocks[i-1].URL, block.URL) >= 0 {
			b.spoiled = true
			break
		}
		if before != nil {
			for n < len(before.urls) && lockss.CompareURL(before.urls[n], block.URL) < 0 {
				n++
			}
			if n < len(before.urls) && before.urls[n] == block.URL {
				block.URL = before.urls[n]
			}
		}
		b.add(block)
	}
	if len(b.urls) == 0 {
		b.spoiled = true
	}
	return b
}

// versions unpacks the versions of URL i. The digests share the memory of the ballot.
func (b *ballot) versions(i int) []lcap.Version {
	start := uint64(0)
	if i > 0 {
		start = b.ends[i-1]
	}
	var out []lcap.Version
	for p := b.packed[start:b.ends[i]]; len(p) > 0; {
		v := lcap.Version{Err: p[0] == 1}
		u, n := binary.Uvarint(p[1:])
		p = p[1+n:]
		f, n := binary.Uvarint(p)
		p = p[n:]
		v.Unfiltered, v.Filtered = int64(u), int64(f)
		v.Plain, p = p[1:1+p[0]:1+p[0]], p[1+p[0]:]
		v.Nonced, p = p[1:1+p[0]:1+p[0]], p[1+p[0]:]
		out = append(out, v)
	}
	return out
}

// blocks unpacks the whole vote.
func (b *ballot) blocks() []lcap.VoteBlock {
	out := make([]lcap.VoteBlock, len(b.urls))
	for i, u := range b.urls {
		out[i] = lcap.VoteBlock{URL: u, Versions: b.versions(i)}
	}
	return out
}

// find returns the position of a URL, ok false if the vote does not hold it.
func (b *ballot) find(url string) (int, bool) {
	i := sort.Search(len(b.urls), func(i int) bool { return lockss.CompareURL(b.urls[i], url) >= 0 })
	return i, i < len(b.urls) && b.urls[i] == url
}

// judge gives the verdict of a vote on a URL; pos is where the URL is in the vote, or where it
// would be, found. own is nil if the poller does not hold it.
func (b *ballot) judge(own *lcap.HashedBlock, i, pos int, found bool) Verdict {
	switch {
	case !found && b.spoiled && pos >= len(b.urls):
		return Spoiled
	case own == nil && !found:
		return Neither
	case own == nil:
		return VoterOnly
	case !found:
		return PollerOnly
	case Agrees(own.Versions, i, b.versions(pos)):
		return Agree
	}
	return Disagree
}

// TallySymmetric is the tally by the voter of a symmetric poll (lcap-v3.md 13.6): its own
// blocks under the second nonce, and those that the poller sent in the receipt. A disorder in
// the poller's blocks ends them there.
func TallySymmetric(own, poller []lcap.VoteBlock) Count {
	for i := 1; i < len(poller); i++ {
		if lockss.CompareURL(poller[i-1].URL, poller[i].URL) >= 0 {
			poller = poller[:i]
			break
		}
	}
	var c Count
	for len(own) > 0 || len(poller) > 0 {
		order := 0
		switch {
		case len(own) == 0:
			order = 1
		case len(poller) == 0:
			order = -1
		default:
			order = lockss.CompareURL(own[0].URL, poller[0].URL)
		}
		switch {
		case order < 0:
			c.VoterOnly++
			own = own[1:]
		case order > 0:
			c.PollerOnly++
			poller = poller[1:]
		default:
			if Agrees(hashed(own[0]).Versions, 0, poller[0].Versions) {
				c.Agree++
			} else {
				c.Disagree++
			}
			own, poller = own[1:], poller[1:]
		}
	}
	return c
}

// hashed turns a vote block into a block with one challenge.
func hashed(b lcap.VoteBlock) lcap.HashedBlock {
	h := lcap.HashedBlock{URL: b.URL, Versions: make([]lcap.HashedVersion, len(b.Versions))}
	for i, v := range b.Versions {
		h.Versions[i] = lcap.HashedVersion{Unfiltered: v.Unfiltered, Filtered: v.Filtered, Plain: v.Plain,
			Nonced: [][]byte{v.Nonced}, Err: v.Err}
	}
	return h
}
