// Package status is the state of the node in rows and tables, once, for pages, JSON and text.
//
//	Sources   functions that the node fills in; each gives rows as they are now
//	Row       one collection, crawl, poll, vote, peer, repair, disk, …: a plain struct
//	Table     rows under named, titled and typed columns (table.go); Names lists the tables
//	Summary   three questions an owner asks, each with a verdict, a sentence and evidence
//
// The words of the pages: a collection is an archival unit, a poll is an audit of one
// collection by several nodes, damage is a URL on which this node lost a poll and that no
// repair has put right.
//
// What is not known is said to be not known: a source that is nil, an empty history, a time
// that is zero never make a verdict Good.
//
// Everything here reads; what the faces may ask the node to do is in actions.go.
package status

import (
	"errors"
	"time"

	"armarium/daemon/lockss"
)

// ErrNotFound says that there is no such table, collection, poll, crawl or URL.
var ErrNotFound = errors.New("not found")

// None stands for an agreement that was never measured.
const None = -1

// Unknown stands for a count or size that is not known now.
const Unknown = -1

// Health is the daemon's own state.
type Health struct {
	State  string `json:"state"` // HealthOK, HealthStarting or another word
	Reason string `json:"reason,omitempty"`
}

// States of Health.
const (
	HealthOK       = "ok"
	HealthStarting = "starting"
)

// A Query limits a history. Zero fields do not limit.
type Query struct {
	AU     lockss.AUID
	Before time.Time // started before
	Limit  int
}

// Sources gives everything there is to see. All functions may be called at any time from any
// goroutine. A nil function means that the node has nothing of the kind.
type Sources struct {
	Health  func() Health
	Box     func() BoxRow
	AUs     func() []AURow // internal ones too
	Crawls  func(Query) ([]CrawlRow, error)
	Crawl   func(id int64) (CrawlRow, error)  // with Failures; ErrNotFound
	Polls   func(Query) ([]PollRow, error)    // ours, running ones first
	Poll    func(key string) (PollRow, error) // with Participants and Damage; ErrNotFound
	Votes   func(Query) ([]VoteRow, error)    // ours in polls of others
	Peers   func() []PeerRow                  // without ourselves
	Agree   func() ([]AgreementRow, error)    // every collection with every peer
	Repairs func(Query) ([]RepairRow, error)  // newest first
	Disks   func() []DiskRow                  //
	Titles  func() []TitleRow                 //
	Plugins func() []PluginRow                //
	Actions func(Query) ([]ActionRow, error)  // the audit trail, newest first
	Config  func() []ConfigRow                //
	URLs    func(au lockss.AUID, after string, limit int) ([]URLRow, error)
	Version func(au lockss.AUID, url string) ([]VersionRow, error) // newest first; ErrNotFound
}

// BoxRow is the node itself.
type BoxRow struct {
	Host        string        `json:"host"`
	Version     string        `json:"version"`
	Image       string        `json:"image,omitempty"`
	Peer        lockss.PeerID `json:"peer"` // our identity in the network
	Groups      []string      `json:"groups"`
	Contact     string        `json:"contact,omitempty"` // mail address of the administrator
	Started     time.Time     `json:"started"`           // the daemon
	Quorum      int           `json:"quorum"`            // votes a poll needs; 0: not known
	PollEvery   time.Duration `json:"pollEvery"`         // configured interval of polls of one collection, ns; 0: not known
	Crawling    bool          `json:"crawling"`          // crawls are enabled
	Polling     bool          `json:"polling"`           // calling polls is enabled
	Lock        string        `json:"lock,omitempty"`    // of the stick: hardware, detached, kernel, none; "" off the appliance
	LockNote    string        `json:"lockNote,omitempty"`
	Seal        string        `json:"seal,omitempty"` // code of the sealed settings
	Time        string        `json:"time,omitempty"` // trust in the clock
	Network     string        `json:"network,omitempty"`
	Sentence    string        `json:"sentence,omitempty"`    // the box in one sentence, made by PID 1
	Alarm       bool          `json:"alarm,omitempty"`       // a person has to act
	Todo        []string      `json:"todo,omitempty"`        // what to do
	ConfigFault string        `json:"configFault,omitempty"` // why the newest configuration is not in force
}

// AURow is one collection.
type AURow struct {
	AU               lockss.AUID       `json:"au"`
	Name             string            `json:"name"`
	Plugin           string            `json:"plugin"`
	PluginVersion    string            `json:"pluginVersion,omitempty"`
	Params           map[string]string `json:"params,omitempty"` // definitional ones only: others may be secret
	StartURLs        []string          `json:"startUrls,omitempty"`
	Disk             string            `json:"disk"`
	Dir              string            `json:"dir,omitempty"`
	Created          time.Time         `json:"created,omitzero"`
	Internal         bool              `json:"internal,omitempty"` // a plugin registry
	PublisherDown    bool              `json:"publisherDown,omitempty"`
	Fault            string            `json:"fault,omitempty"` // why it is configured but not in service
	URLs             int               `json:"urls"`            // or Unknown
	Bytes            int64             `json:"bytes"`           // of current versions, or Unknown
	Versions         int               `json:"versions"`        // or Unknown
	Crawled          time.Time         `json:"crawled,omitzero"`
	CrawlAttempt     time.Time         `json:"crawlAttempt,omitzero"`
	CrawlResult      string            `json:"crawlResult,omitempty"` // of the last attempt
	CrawlFailed      bool              `json:"crawlFailed,omitempty"` // the last attempt did not succeed
	Crawling         bool              `json:"crawling"`
	Polled           time.Time         `json:"polled,omitzero"` // end of the last complete poll
	PollAttempt      time.Time         `json:"pollAttempt,omitzero"`
	PollResult       string            `json:"pollResult,omitempty"` // of the last attempt, "No Quorum" for example
	NoQuorum         bool              `json:"noQuorum,omitempty"`   // the last attempt had too few votes
	Polling          bool              `json:"polling"`
	Agreement        float64           `json:"agreement"`        // 0 to 1 of the last quorate poll, or None
	HighestAgreement float64           `json:"highestAgreement"` // ever, with any peer, or None
	Damaged          int               `json:"damaged"`          // URLs the last poll lost and no repair put right
	Undecided        int               `json:"undecided"`        // URLs of the last poll with too close a result or too few votes
	AgreeingPeers    int               `json:"agreeingPeers"`    // that agreed in the last poll, or Unknown
	Repairers        int               `json:"repairers"`        // peers that would give us repairs, or Unknown
}

// CrawlRow is one crawl.
type CrawlRow struct {
	ID          int64          `json:"id"` // 0 while it runs
	AU          lockss.AUID    `json:"au"`
	Name        string         `json:"name"`
	Kind        string         `json:"kind"` // "new content", "repair"
	Started     time.Time      `json:"started"`
	Ended       time.Time      `json:"ended,omitzero"`
	Running     bool           `json:"running"`
	OK          bool           `json:"ok"`
	Status      string         `json:"status"`            // admin.md 8.5: "Successful", "Fetch error", …
	Message     string         `json:"message,omitempty"` // what to know beyond the status
	Fetched     int            `json:"fetched"`
	NotModified int            `json:"notModified"`
	Excluded    int            `json:"excluded"`
	Errors      int            `json:"errors"`
	Queued      int            `json:"queued"`
	Bytes       int64          `json:"bytes"`
	Current     string         `json:"current,omitempty"` // URL being fetched
	Failures    []CrawlFailure `json:"failures,omitempty"`
}

// CrawlFailure is a URL that a crawl could not fetch.
type CrawlFailure struct {
	URL    string `json:"url"`
	Reason string `json:"reason"`
}

// PollRow is one poll of ours.
type PollRow struct {
	Key          string           `json:"key"`
	AU           lockss.AUID      `json:"au"`
	Name         string           `json:"name"`
	Variant      string           `json:"variant"` // PoR, PoP
	Started      time.Time        `json:"started"`
	Ended        time.Time        `json:"ended,omitzero"`
	VoteDeadline time.Time        `json:"voteDeadline,omitzero"`
	Deadline     time.Time        `json:"deadline,omitzero"`
	Running      bool             `json:"running"`
	Status       string           `json:"status"` // admin.md 8.5: "Complete", "No Quorum", "Hashing", …
	Quorum       int              `json:"quorum"`
	Voters       int              `json:"voters"`
	Agreement    float64          `json:"agreement"` // 0 to 1, or None
	URLs         int              `json:"urls"`
	Won          int              `json:"won"`
	Lost         int              `json:"lost"`  // the others have something else, or something we lack
	Extra        int              `json:"extra"` // we have something that the others lack
	TooClose     int              `json:"tooClose"`
	NoQuorum     int              `json:"noQuorum"`
	Repairs      int              `json:"repairs"` // verified
	Pending      int              `json:"pending"` // repairs not settled yet
	Sentence     string           `json:"sentence,omitempty"`
	Participants []ParticipantRow `json:"participants,omitempty"`
	Damage       []DamageRow      `json:"damage,omitempty"`
}

// ParticipantRow is a peer in one of our polls.
type ParticipantRow struct {
	Peer       lockss.PeerID `json:"peer"`
	Status     string        `json:"status"`
	Reason     string        `json:"reason,omitempty"` // why it did not vote
	Outer      bool          `json:"outer,omitempty"`  // nominated by another peer
	Invited    time.Time     `json:"invited,omitzero"`
	Voted      time.Time     `json:"voted,omitzero"`
	Agreement  float64       `json:"agreement"` // 0 to 1, or None
	Agree      int           `json:"agree"`
	Disagree   int           `json:"disagree"`
	PollerOnly int           `json:"pollerOnly"`
	VoterOnly  int           `json:"voterOnly"`
}

// DamageRow is a URL that a poll did not find in order.
type DamageRow struct {
	URL      string        `json:"url"`
	Result   string        `json:"result"`           // "LOST", "TOO_CLOSE", …
	Agree    int           `json:"agree"`            // votes
	Disagree int           `json:"disagree"`         //
	Repair   string        `json:"repair,omitempty"` // state of the repair
	From     lockss.PeerID `json:"from,omitempty"`   // its source; "" and a repair: the publisher
	After    string        `json:"after,omitempty"`  // result after the repair
	Votes    []URLVote     `json:"votes,omitempty"`
}

// URLVote is what one peer said about one URL.
type URLVote struct {
	Peer    lockss.PeerID `json:"peer"`
	Verdict string        `json:"verdict"`
}

// VoteRow is a vote of ours in the poll of another.
type VoteRow struct {
	Key       string        `json:"key"`
	AU        lockss.AUID   `json:"au"`
	Name      string        `json:"name"`
	Poller    lockss.PeerID `json:"poller"`
	Status    string        `json:"status"`
	Reason    string        `json:"reason,omitempty"` // why we declined
	Running   bool          `json:"running"`
	Started   time.Time     `json:"started"`
	Ended     time.Time     `json:"ended,omitzero"`
	Deadline  time.Time     `json:"deadline,omitzero"`
	URLs      int           `json:"urls"`
	Agreement float64       `json:"agreement"` // that the poller measured of us, or None
	Served    int           `json:"served"`    // repairs given
	Refused   int           `json:"refused"`   // repairs refused
}

// PeerRow is another node. Zero times mean never.
type PeerRow struct {
	Peer        lockss.PeerID `json:"peer"`
	Configured  bool          `json:"configured"` // in the network's peer list, not only nominated
	LastMessage time.Time     `json:"lastMessage,omitzero"`
	LastInvited time.Time     `json:"lastInvited,omitzero"` // by us
	LastVoted   time.Time     `json:"lastVoted,omitzero"`   // for us
	LastCalled  time.Time     `json:"lastCalled,omitzero"`  // a poll that we accepted
	Messages    int           `json:"messages"`
	Invitations int           `json:"invitations"`
	Votes       int           `json:"votes"`
	Polls       int           `json:"polls"`
	Refusals    int           `json:"refusals"`
	LastRefusal string        `json:"lastRefusal,omitempty"`
	Groups      []string      `json:"groups,omitempty"`
	State       string        `json:"state,omitempty"` // of the connection
	Fault       string        `json:"fault,omitempty"` // last error of the connection
}

// AgreementRow is how far a peer and we agree on a collection: 0 to 1, or None.
type AgreementRow struct {
	AU        lockss.AUID   `json:"au"`
	Name      string        `json:"name"`
	Peer      lockss.PeerID `json:"peer"`
	Last      float64       `json:"last"` // as we measured it
	LastAt    time.Time     `json:"lastAt,omitzero"`
	Highest   float64       `json:"highest"`
	HighestAt time.Time     `json:"highestAt,omitzero"`
	Hint      float64       `json:"hint"` // as the peer measured it
	HintAt    time.Time     `json:"hintAt,omitzero"`
	Repairs   bool          `json:"repairs"` // it may have repairs from us
}

// RepairRow is one repair.
type RepairRow struct {
	At      time.Time     `json:"at"`
	AU      lockss.AUID   `json:"au"`
	Name    string        `json:"name"`
	URL     string        `json:"url"`
	Version int           `json:"version,omitempty"` // the new one
	From    lockss.PeerID `json:"from,omitempty"`    // "": the publisher
	Poll    string        `json:"poll,omitempty"`
	Result  string        `json:"result"` // RepairVerified, RepairDisputed, RepairFailed
	Reason  string        `json:"reason,omitempty"`
	Old     string        `json:"old,omitempty"` // checksum before
	New     string        `json:"new,omitempty"` // and after
}

// Results of a repair.
const (
	RepairVerified = "verified" // the poll agrees with the new version
	RepairDisputed = "disputed" // stored, but the poll does not agree
	RepairFailed   = "failed"   // nothing was stored
)

// DiskRow is one disk for content.
type DiskRow struct {
	Path   string `json:"path"`
	State  string `json:"state"` // "ok", or a word of the platform: "read-only", "missing", …
	Fault  string `json:"fault,omitempty"`
	Device string `json:"device,omitempty"`
	Serial string `json:"serial,omitempty"`
	Total  uint64 `json:"total"` // bytes; 0: not known
	Free   uint64 `json:"free"`
	Units  int    `json:"units"`           // collections on it
	Level  string `json:"level,omitempty"` // of free space: "", DiskLow, DiskFull
	Note   string `json:"note,omitempty"`
}

// Levels of free space.
const (
	DiskOK   = "ok"
	DiskLow  = "low"
	DiskFull = "full"
)

// TitleRow is a title of the network's list: a collection that can be added.
type TitleRow struct {
	Key     string            `json:"key"`
	Name    string            `json:"name"`
	Journal string            `json:"journal,omitempty"`
	Plugin  string            `json:"plugin"`
	Params  map[string]string `json:"params,omitempty"`
	AU      lockss.AUID       `json:"au,omitempty"`
	Added   bool              `json:"added"`             // is a collection of this node
	Problem string            `json:"problem,omitempty"` // why it cannot be added
}

// PluginRow is one plugin.
type PluginRow struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Version string `json:"version"`
	Origin  string `json:"origin"` // registry it came from, "built in"
	Signer  string `json:"signer,omitempty"`
	AUs     int    `json:"aus"`
	Fault   string `json:"fault,omitempty"`
}

// ActionRow is an entry of the audit trail.
type ActionRow struct {
	At     time.Time `json:"at"`
	User   string    `json:"user"`
	What   string    `json:"what"`
	Object string    `json:"object,omitempty"`
	Result string    `json:"result"`
}

// ConfigRow is a parameter in force.
type ConfigRow struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Origin string `json:"origin"`         // file, URL or rule that set it; "default"
	Note   string `json:"note,omitempty"` // "unknown parameter", or what is wrong with the value
}

// URLRow is one preserved URL.
type URLRow struct {
	URL      string `json:"url"`
	Version  int    `json:"version"` // number of the current one
	Size     int64  `json:"size"`    // bytes, or Unknown when the bytes are missing
	Checksum string `json:"checksum,omitempty"`
	Versions int    `json:"versions"`
}

// VersionRow is one version of a URL.
type VersionRow struct {
	URL       string            `json:"url"`
	Version   int               `json:"version"`
	Current   bool              `json:"current"`
	Size      int64             `json:"size"`
	Type      string            `json:"type,omitempty"`
	Collected time.Time         `json:"collected,omitzero"`
	Checksum  string            `json:"checksum,omitempty"`
	From      lockss.PeerID     `json:"from,omitempty"` // peer it was repaired from
	Fault     string            `json:"fault,omitempty"`
	Props     map[string]string `json:"props,omitempty"`
}
