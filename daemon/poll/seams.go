package poll

import (
	"context"
	"time"

	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
)

// A Network sends messages. Send queues and never blocks; nothing tells whether the message
// arrived. A zero expires means: not retried.
type Network interface {
	Send(to lockss.PeerID, m *lcap.Message, expires time.Time, maxRetries int, retryInterval time.Duration)
}

// HashRequest says what to hash, when.
type HashRequest struct {
	AU          lockss.AUID
	Algorithm   string
	Challenges  [][]byte // what is digested before the content: poller nonce ‖ voter nonce, one for each digest wanted
	Modulus     int      // > 0: only the sample under SampleNonce
	SampleNonce []byte
	URL         string // not "": only this URL
	MaxVersions int    // 0: the default of the hasher
	Start       time.Time
	Deadline    time.Time
}

// A Hasher hashes units of this node.
type Hasher interface {
	// Hash calls emit for each URL in canonical order, one call at a time, and returns when all
	// is hashed. It waits for its start and while the unit is being crawled. A version that
	// cannot be read is a version with Err, not an error; a unit without content, or a URL that
	// is not held, gives no block. Errors wrap ErrTimeout, ErrNoTime, ErrNoUnit, or the error of
	// emit or of ctx.
	Hash(ctx context.Context, r HashRequest, emit func(lcap.HashedBlock) error) error
	// Estimate returns how long a hash of the whole unit takes, padded for scheduling.
	Estimate(au lockss.AUID) time.Duration
	// Reserve promises d of hashing between start and deadline; an error wraps ErrNoTime. The
	// promise is used up by the Hash of this unit with this deadline.
	Reserve(au lockss.AUID, start, deadline time.Time, d time.Duration) error
}

// A Releaser is a Hasher that takes promises back: the hash by this deadline, as reserved, will
// not be asked for. Without it a promise lasts until its deadline.
type Releaser interface {
	Release(au lockss.AUID, deadline time.Time)
}

// Unit is a snapshot of what a poll needs to know of an archival unit.
type Unit struct {
	AU          lockss.AUID
	Name        string
	PollVersion string // plugVer: the plugin's version for polls

	Crawled       bool      // completely, at least once
	NoSubstance   bool      // known to have no substantial content
	PublisherDown bool      // pub_down: repairs come from peers only
	NoPoll        bool      // flagged nopoll: polls only on request
	Internal      bool      // a plugin registry
	OpenAccess    bool      // repairs need no agreement (lcap-v3.md 15.3)
	Created       time.Time // when it came to this node
	Priority      float64   // factor on its weight in the queue; 0 counts as 1

	LastPoll          time.Time     // end of the last complete PoR poll; zero: never
	LastPollResult    int           // State of the last PoR poll; -1: none
	LastAttempt       time.Time     // last poll called
	LastPoP           time.Time     // end of the last complete PoP poll
	PollDuration      time.Duration // average of PoR polls
	Agreement         float64       // of the last quorate PoR poll, -1: none
	AgreeingPeers     int           // in the last PoR poll, -1: unknown
	LastContentChange time.Time
	SuspectVersions   int // URLs whose newest version is suspect
}

// PollEnd is what is recorded with a unit when a poll of ours ends (lcap-v3.md 16.6). A zero
// time or a negative number means: leave what is there.
type PollEnd struct {
	Variant       Variant
	Status        State
	LastPoll      time.Time     // only if complete: time of the end
	Duration      time.Duration // PoR: new average
	Agreement     float64       // PoR, quorate: 0 to 1; else -1
	AgreeingPeers int           // PoR: participants with enough agreement; else -1
	Repairers     int           // willing repairers now
}

// Units are the archival units of this node.
type Units interface {
	// Ready reports whether all configured units are there. Until then polls are not declined
	// for want of a unit.
	Ready() bool
	AUs() []lockss.AUID
	// Unit returns a snapshot; ok is false if the unit is not here.
	Unit(au lockss.AUID) (u Unit, ok bool)
	// PollStarted and PollEnded record the attempt and its end with the unit, durably.
	PollStarted(au lockss.AUID, at time.Time) error
	PollEnded(au lockss.AUID, end PollEnd) error
}

// Copies are the preserved bytes.
type Copies interface {
	// Repair returns the current version of a URL, its headers and stored bytes, for another
	// peer; an error if it has no content.
	Repair(ctx context.Context, au lockss.AUID, url string) (props map[string]string, data []byte, err error)
	// Store stores a repair as a new version of url and returns when it is durable. It sets the
	// version number itself, and x-lockss-node-url from the previous version where that differs
	// from url only by a trailing slash (lcap-v3.md 14.5).
	Store(ctx context.Context, au lockss.AUID, url string, props map[string]string, data []byte) error
}

// A Refetcher gets one URL again from its publisher, and returns when it is stored.
type Refetcher interface {
	Refetch(ctx context.Context, au lockss.AUID, url string) error
}

// A Log keeps what happened. Its methods are called from one goroutine for each poll.
type Log interface {
	Done(r Result) error           // a poll of ours or a vote ended
	Repaired(r RepairRecord) error // a repair was settled
}

// Role tells polls of ours from votes in those of others.
type Role string

// The roles.
const (
	RolePoller Role = "poller"
	RoleVoter  Role = "voter"
)

// Result is a poll or a vote that ended.
type Result struct {
	Key       string        `json:"key"`
	AU        lockss.AUID   `json:"au"`
	Role      Role          `json:"role"`
	Peer      lockss.PeerID `json:"peer,omitempty"` // the poller, of a vote
	Variant   Variant       `json:"variant"`
	Started   time.Time     `json:"started"`
	Ended     time.Time     `json:"ended"`
	Status    string        `json:"status"`
	Code      int           `json:"code"` // of the status (lcap-v3.md 9.9, 10.4)
	Quorum    int           `json:"quorum,omitempty"`
	Voters    int           `json:"voters,omitempty"`
	Agreement float64       `json:"agreement"` // 0 to 1, -1: none. Of a vote: what the poller measured of us
	URLs      int           `json:"urls"`
	Won       int           `json:"won"`
	Lost      int           `json:"lost"`  // LOST and LOST_VOTER_ONLY
	Extra     int           `json:"extra"` // LOST_POLLER_ONLY
	TooClose  int           `json:"tooClose"`
	NoQuorum  int           `json:"noQuorum"`
	Repairs   int           `json:"repairs"` // verified
	Sentence  string        `json:"sentence"`

	Participants []Participant `json:"participants,omitempty"`
	Listed       []URLStatus   `json:"listed,omitempty"` // URLs without full agreement, at most maxListed
}

// maxListed bounds the URLs listed for a poll; the numbers are complete.
const maxListed = 500

// RepairRecord is one repair.
type RepairRecord struct {
	AU     lockss.AUID   `json:"au"`
	URL    string        `json:"url"`
	Poll   string        `json:"poll"`
	From   lockss.PeerID `json:"from,omitempty"` // "": the publisher
	At     time.Time     `json:"at"`
	Result string        `json:"result"` // verified, disputed, failed
	Reason string        `json:"reason,omitempty"`
	Old    string        `json:"old,omitempty"` // plain digest of our newest version before, hexadecimal
	New    string        `json:"new,omitempty"` // after
}

// Results of a repair.
const (
	RepairVerified = "verified" // the poll agrees with the new version
	RepairDisputed = "disputed" // stored, but the poll still does not agree
	RepairFailed   = "failed"   // nothing was stored
)

// Participant is a peer in a poll of ours.
type Participant struct {
	Peer      lockss.PeerID `json:"peer"`
	Outer     bool          `json:"outer,omitempty"` // nominated by another
	Status    string        `json:"status"`
	NAK       lcap.NAK      `json:"nak,omitempty"`
	Invited   time.Time     `json:"invited"`
	Voted     time.Time     `json:"voted,omitzero"`
	Agreement float64       `json:"agreement"` // 0 to 1, -1: no vote
	Count     Count         `json:"count"`     // of URLs
	Spoiled   bool          `json:"spoiled,omitempty"`
	Symmetric bool          `json:"symmetric,omitempty"`
}

// URLStatus is a URL that the poll did not find in order.
type URLStatus struct {
	URL    string        `json:"url"`
	Result Outcome       `json:"result"` // first
	Count  Count         `json:"count"`
	Repair string        `json:"repair,omitempty"` // state of the repair
	From   lockss.PeerID `json:"from,omitempty"`   // source, "" and a repair: the publisher
	After  string        `json:"after,omitempty"`  // result after repair
	Votes  []URLVote     `json:"votes,omitempty"`
}

// URLVote is the verdict of one participant on a URL.
type URLVote struct {
	Peer    lockss.PeerID `json:"peer"`
	Verdict Verdict       `json:"verdict"`
}

// Status is a poll of ours, running or recent.
type Status struct {
	Result
	Running      bool      `json:"running"`
	VoteDeadline time.Time `json:"voteDeadline"`
	Deadline     time.Time `json:"deadline"`
	Pending      int       `json:"pending"` // repairs not settled
}

// VoteStatus is a vote of ours, running or recent.
type VoteStatus struct {
	Key          string        `json:"key"`
	AU           lockss.AUID   `json:"au"`
	Poller       lockss.PeerID `json:"poller"`
	Status       string        `json:"status"`
	NAK          lcap.NAK      `json:"nak,omitempty"` // with which we declined or gave up
	Running      bool          `json:"running"`
	Started      time.Time     `json:"started"`
	Ended        time.Time     `json:"ended,omitzero"`
	VoteDeadline time.Time     `json:"voteDeadline"`
	Deadline     time.Time     `json:"deadline"`
	URLs         int           `json:"urls"`              // in our vote
	Hint         float64       `json:"hint"`              // agreement the poller told us, -1: none
	Symmetric    float64       `json:"symmetric"`         // agreement we measured of the poller, -1: none
	Served       []string      `json:"served,omitempty"`  // URLs given as repairs, at most maxListed
	Refused      int           `json:"refused,omitempty"` // repairs not given
	Sentence     string        `json:"sentence"`
}
