// Package poll audits: it calls polls on our units, votes in those of others, and repairs what
// a poll shows to be damaged, by LCAP V3 (lcap-v3.md).
//
//	poller                                    voter
//	  | --- Poll ---------------------------->  |  10.1: accepts or declines
//	  | <-- PollAck --------------------------  |
//	  | --- PollProof ----------------------->  |
//	  | <-- Nominate -------------------------  |  hashes its unit meanwhile
//	  | --- VoteRequest --------------------->  |
//	  | <-- Vote -----------------------------  |
//	  |  hashes its own unit once for all voters, tallies URL by URL
//	  | --- RepairReq ----------------------->  |  for what it lost, if not from the publisher
//	  | <-- RepairRep ------------------------  |  or silence
//	  |  hashes that URL again, with the same nonces, tallies it again
//	  | --- EvaluationReceipt --------------->  |
//
// The machines [Poller] (poller.go, repair.go; one poll with its participants) and [Voter]
// (voter.go; one vote) are pure: Step takes the time and an event and gives effects; Next tells
// when the time itself is an event. They read no clock, do no I/O, start no goroutine; chance
// comes in from outside. tally.go decides URLs, queue.go what is polled when. The [Auditor]
// (auditor.go) owns everything that runs: it routes messages to machines, executes effects
// through the interfaces of seams.go, and calls polls when they are due.
//
// Invariants: a poll ends at its deadline whatever the others do; only what was asked of a peer
// and is still wanted is taken from it; a repair is a new version, nothing is overwritten or
// deleted; a URL of ours that cannot be read is damage like any other, never the end of a poll.
package poll

import (
	"errors"
	"math"
	"time"

	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
)

// Errors of a Hasher. Implementations wrap them, or the auditor cannot tell why a hash failed.
var (
	ErrNoTime  = errors.New("no time to hash the unit")
	ErrTimeout = errors.New("hash not finished in time")
	ErrNoUnit  = errors.New("no such unit")
)

// ErrRunning is returned by Call for a unit on which a poll of ours is running.
var ErrRunning = errors.New("a poll on this unit is running")

// Params are the parameters of lcap-v3.md 17.3 to 17.5 that this package reads.
type Params struct {
	// Calling polls.
	StarterInitialDelay    time.Duration `prop:"org.lockss.poll.pollStarterInitialDelay" default:"10m"`
	StarterDelay           time.Duration `prop:"org.lockss.poll.pollStarterAdditionalDelayBetweenPolls" default:"1s"`
	StarterThrottle        bool          `prop:"org.lockss.poll.enablePollStarterThrottle" default:"true"`
	MaxPollersSleep        time.Duration `prop:"org.lockss.poll.maxPollersSleep" default:"10m"`
	QueueEmptySleep        time.Duration `prop:"org.lockss.poll.queueEmptySleep" default:"30m"`
	QueueRecalcInterval    time.Duration `prop:"org.lockss.poll.queueRecalcInterval" default:"1h"`
	QueueMax               int           `prop:"org.lockss.poll.pollQueueMax" default:"20"`
	AutoPollClasses        string        `prop:"org.lockss.poll.autoPollAuClassess" default:"All"`
	MinAttemptInterval     time.Duration `prop:"org.lockss.poll.minPollAttemptInterval" default:"4h"`
	ExpireRecent           time.Duration `prop:"org.lockss.poll.expireRecent" default:"1d"`
	RepairOutsidePolls     bool          `prop:"org.lockss.poll.enableV3Repairer" default:"false"`
	ConnectTimeout         time.Duration `prop:"org.lockss.scomm.timeout.connect" default:"2m"`
	EnablePoller           bool          `prop:"org.lockss.poll.v3.enableV3Poller" default:"true"`
	MaxPollers             int           `prop:"org.lockss.poll.v3.maxSimultaneousV3Pollers" default:"10"`
	PollInterval           time.Duration `prop:"org.lockss.poll.v3.toplevelPollInterval" default:"10w"`
	PollIntervalCurve      string        `prop:"org.lockss.poll.v3.pollIntervalAgreementCurve" default:""`
	PollIntervalLastResult []string      `prop:"org.lockss.poll.v3.pollIntervalAgreementLastResult" default:""`
	PollIntervalAtRisk     string        `prop:"org.lockss.poll.v3.pollIntervalAtRiskPeersCurve" default:""`
	PollWeightAtRisk       string        `prop:"org.lockss.poll.v3.pollWeightAtRiskPeersCurve" default:""`
	MinTimeBetweenPolls    time.Duration `prop:"org.lockss.poll.v3.minTimeBetweenAnyPoll" default:"1d"`
	MaxDelayBetweenPoR     int           `prop:"org.lockss.poll.v3.maxDelayBetweenPoRMultiplier" default:"10"`
	MinAgreePeersLastPoR   int           `prop:"org.lockss.poll.v3.minAgreePeersLastPoRPoll" default:"3"`
	RepairerThreshold      int           `prop:"org.lockss.poll.v3.repairerThreshold" default:"3"`
	EnablePoP              bool          `prop:"org.lockss.poll.v3.enablePoPPolls" default:"false"`
	AllPoP                 bool          `prop:"org.lockss.poll.v3.allPoPPolls" default:"false"`
	Modulus                int           `prop:"org.lockss.poll.v3.modulus" default:"0"`

	// Poller.
	HashAlgorithm         string        `prop:"org.lockss.protocol.hashAlgorithm" default:"SHA-1"`
	Quorum                int           `prop:"org.lockss.poll.v3.quorum" default:"5"`
	VoteMargin            int           `prop:"org.lockss.poll.v3.voteMargin" default:"75"` // percent
	MinPollDuration       time.Duration `prop:"org.lockss.poll.v3.minPollDuration" default:"10m"`
	MaxPollDuration       time.Duration `prop:"org.lockss.poll.v3.maxPollDuration" default:"3w"`
	VoteMultiplier        int           `prop:"org.lockss.poll.v3.voteDurationMultiplier" default:"4"`
	VotePadding           time.Duration `prop:"org.lockss.poll.v3.voteDurationPadding" default:"5m"`
	TallyMultiplier       int           `prop:"org.lockss.poll.v3.tallyDurationMultiplier" default:"5"`
	TallyPadding          time.Duration `prop:"org.lockss.poll.v3.tallyDurationPadding" default:"5m"`
	ExtendMultiplier      float64       `prop:"org.lockss.poll.v3.pollExtendMultiplier" default:"2.0"`
	ReceiptPadding        time.Duration `prop:"org.lockss.poll.v3.receiptPadding" default:"5m"`
	TargetQuorumFactor    float64       `prop:"org.lockss.poll.v3.targetSizeQuorumMultiplier" default:"1.25"`
	InvitationFactor      float64       `prop:"org.lockss.poll.v3.invitationSizeTargetMultiplier" default:"1.5"`
	TargetOuterCircle     int           `prop:"org.lockss.poll.v3.targetOuterCircle" default:"10"`
	DropEmptyNominations  bool          `prop:"org.lockss.poll.v3.dropEmptyNominations" default:"false"`
	TimeBetweenInvitation time.Duration `prop:"org.lockss.poll.v3.timeBetweenInvitations" default:"2m"`
	FollowupInvitations   bool          `prop:"org.lockss.poll.v3.enableFollowupInvitations" default:"true"`
	MaxRepairs            int           `prop:"org.lockss.poll.v3.maxRepairs" default:"1000"` // 0 none, negative unlimited
	RepairFromCache       bool          `prop:"org.lockss.poll.v3.enableRepairFromCache" default:"true"`
	RepairFromCacheShare  float64       `prop:"org.lockss.poll.v3.repairFromCachePercent" default:"0"` // fraction
	RepairTooClose        bool          `prop:"org.lockss.poll.v3.repairFromPublisherWhenTooClose" default:"false"`
	MinReplicasNoQuorum   int           `prop:"org.lockss.poll.v3.minReplicasForNoQuorumPeerRepair" default:"-1"`
	UseVersionCounts      bool          `prop:"org.lockss.poll.v3.useVersionCounts" default:"false"`
	RepairHashAll         bool          `prop:"org.lockss.poll.v3.repairHashAllVersions" default:"false"`
	ExtraPollTime         time.Duration `prop:"org.lockss.poll.v3.extraPollTime" default:"20m"`
	MinAgreementForRepair float64       `prop:"org.lockss.poll.v3.minPercentAgreementForRepairs" default:"0.5"`

	// Voter.
	EnableVoter           bool          `prop:"org.lockss.poll.v3.enableV3Voter" default:"true"`
	MaxVoters             int           `prop:"org.lockss.poll.v3.maxSimultaneousV3Voters" default:"60"`
	AcceptCurve           string        `prop:"org.lockss.poll.v3.acceptProbabilitySafetyCurve" default:""`
	AcceptRepairersFactor float64       `prop:"org.lockss.poll.v3.acceptRepairersPollPercent" default:"0.9"`
	VoteRequestDelay      time.Duration `prop:"org.lockss.poll.v3.voteRequestDelay" default:"30s"`
	VoteMessagePadding    time.Duration `prop:"org.lockss.poll.v3.voteMsgPadding" default:"15s"`
	VoteMessageFactor     float64       `prop:"org.lockss.poll.v3.voteMsgHashMultiplier" default:"0.01"`
	VoteRetryCurve        string        `prop:"org.lockss.poll.v3.voteRetryIntervalDurationCurve" default:"[5m,2m],[20m,4m],[1d,5h]"`
	EnablePoPVoting       bool          `prop:"org.lockss.poll.v3.enablePoPVoting" default:"true"`
	EnableSymmetric       bool          `prop:"org.lockss.poll.v3.enableSymmetricPolls" default:"false"`
	AllSymmetric          bool          `prop:"org.lockss.poll.v3.allSymmetricPolls" default:"false"`

	// VoterReceiptPadding is how long after the poll's deadline a voter takes a receipt. In 1.x
	// it has the name of ReceiptPadding and another default, so that a value set there is for
	// both.
	VoterReceiptPadding time.Duration `prop:"org.lockss.poll.v3.receiptPadding" default:"10m"`
}

// Variant is the kind of a poll (lcap-v3.md 7).
type Variant string

// The kinds. Polls without invitations (local) are not called by this node.
const (
	PoR Variant = "PoR" // whole unit
	PoP Variant = "PoP" // sample
)

// phases are the durations of a poll (lcap-v3.md 11.1 and 11.2), from an estimate of the hash.
type phases struct {
	est    time.Duration
	params *Params
}

func (p phases) voteTarget() time.Duration {
	return p.est*time.Duration(p.params.VoteMultiplier) + p.params.VotePadding
}

func (p phases) tallyTarget() time.Duration {
	return p.est*time.Duration(p.params.TallyMultiplier) + p.params.TallyPadding
}

// split returns the length of the vote phase and of vote and tally phase together, for a poll of
// this duration (receipt padding included).
func (p phases) split(duration time.Duration) (vote, tally time.Duration) {
	sum := (duration - p.params.ReceiptPadding).Truncate(time.Millisecond)
	vt, tt := p.voteTarget().Milliseconds(), p.tallyTarget().Milliseconds()
	if tt <= 0 {
		return sum, sum
	}
	r := float64(vt) / float64(tt)
	return time.Duration(math.Floor(r*float64(sum.Milliseconds())/(r+1))) * time.Millisecond, sum
}

// plan finds the duration of a poll: the first that leaves time for our own hash after the votes.
// fits reports whether a hash of est fits between the two times from now. ok is false if none
// does before the longest duration allowed.
func (p phases) plan(fits func(start, deadline, est time.Duration) bool) (duration time.Duration, ok bool) {
	vote, tally := p.voteTarget(), p.tallyTarget()
	step := time.Duration(float64(vote.Milliseconds())*p.params.ExtendMultiplier) * time.Millisecond
	if step <= 0 {
		step = time.Minute
	}
	for d := max(vote+tally, p.params.MinPollDuration); d < p.params.MaxPollDuration; d += step {
		start, _ := p.split(d + p.params.ReceiptPadding)
		if fits(start, d, p.est) {
			return d + p.params.ReceiptPadding, true
		}
	}
	return 0, false
}

// An Event is something that happened to a machine.
type Event interface{ event() }

type (
	// Begin starts the machine. It is the first event, and comes once.
	Begin struct{}
	// Tick says that the time of Next has come.
	Tick struct{}
	// Received is a message of this poll; From is the identity of its channel.
	Received struct {
		From lockss.PeerID
		M    *lcap.Message
	}
	// Hashed is one block of hash ID, in canonical order. The machine keeps nothing of it after
	// Step.
	Hashed struct {
		ID    int
		Block lcap.HashedBlock
	}
	// HashDone ends hash ID.
	HashDone struct {
		ID  int
		Err error
	}
	// Stored says that the copy of a URL is durable, or why not.
	Stored struct {
		URL string
		Err error
	}
	// Refetched says that the publisher's copy of a URL is stored, or why not.
	Refetched struct {
		URL string
		Err error
	}
	// Copy is the current version of a URL for a repair that was asked of us.
	Copy struct {
		URL   string
		Props map[string]string
		Data  []byte
		Err   error // why it is not served
	}
	// Abort ends the machine: the node stops, or an administrator wants it.
	Abort struct{ Reason string }
)

func (Begin) event()     {}
func (Tick) event()      {}
func (Received) event()  {}
func (Hashed) event()    {}
func (HashDone) event()  {}
func (Stored) event()    {}
func (Refetched) event() {}
func (Copy) event()      {}
func (Abort) event()     {}

// An Effect is something a machine wants done. Effects are executed in order.
type Effect interface{ effect() }

type (
	// Send sends a message. Expires zero: not retried.
	Send struct {
		To            lockss.PeerID
		M             *lcap.Message
		Expires       time.Time
		Retries       int
		RetryInterval time.Duration
	}
	// Hash wants blocks: [Hashed] events, then one [HashDone].
	Hash struct {
		ID      int
		Request HashRequest
	}
	// Store wants a repair stored as a new version: [Stored].
	Store struct {
		URL   string
		Props map[string]string
		Data  []byte
	}
	// Refetch wants URLs fetched again from the publisher: one [Refetched] for each.
	Refetch struct{ URLs []string }
	// Serve wants the current version of a URL for a peer that has a right to it: [Copy].
	Serve struct {
		URL string
		To  lockss.PeerID
	}
	// Invited, Voted, Refused and NoAU are what the poll learnt of peers.
	Invited struct{ Peer lockss.PeerID }
	Voted   struct{ Peer lockss.PeerID }
	Refused struct {
		Peer lockss.PeerID
		NAK  lcap.NAK
	}
	Nominated struct{ Peers []lockss.PeerID }
	NoAU      struct{ Peers []lockss.PeerID }
	// Agreed records agreements of one type, by its name in package peer.
	Agreed struct {
		Type   string
		Values map[lockss.PeerID]float32
	}
	// Repaired reports a repair that is settled.
	Repaired struct{ Record RepairRecord }
	// Finished is the last effect of a machine.
	Finished struct{ Result Result }
	// Note goes to the log of the node.
	Note struct {
		Text string
		Peer lockss.PeerID
		URL  string
		Err  error
	}
)

func (Send) effect()      {}
func (Hash) effect()      {}
func (Store) effect()     {}
func (Refetch) effect()   {}
func (Serve) effect()     {}
func (Invited) effect()   {}
func (Voted) effect()     {}
func (Refused) effect()   {}
func (Nominated) effect() {}
func (NoAU) effect()      {}
func (Agreed) effect()    {}
func (Repaired) effect()  {}
func (Finished) effect()  {}
func (Note) effect()      {}
