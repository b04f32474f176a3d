package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"armarium/daemon/lockss"
)

// Files are the named state files of one unit; *store.Unit is one. ReadState of a file that is
// not there returns nil or an error that is fs.ErrNotExist. WriteState replaces the file whole and
// returns when it is durable.
type Files interface {
	ReadState(name string) ([]byte, error)
	WriteState(name string, b []byte) error
}

// Keeper keeps one value across restarts. Load returns nil before the first Save.
type Keeper interface {
	Load() ([]byte, error)
	Save(b []byte) error
}

// Config is what Peers needs.
type Config struct {
	Local  lockss.PeerID                       // our own identity; required
	Files  func(au lockss.AUID) (Files, error) // state files of a unit we hold; required
	Keeper Keeper                              // known peers and statistics; nil: memory only
	Log    *slog.Logger                        // nil: discard
	Params
}

// Params are the parameters, as configured.
type Params struct {
	InitialPeers []string `prop:"org.lockss.id.initialV3PeerList" default:""`
	Groups       []string `prop:"org.lockss.daemon.groups" default:"nogroup"`
	Discovery    bool     `prop:"org.lockss.poll.v3.enableDiscovery" default:"true"`

	WrongGroupRetryTime time.Duration `prop:"org.lockss.poll.wrongGroupRetryTime" default:"4w"`
	WeightAgeCurve      string        `prop:"org.lockss.poll.v3.invitationWeightAgeCurve" default:"[4d,1.0],[20d,0.1],[40d,0.01]"`
	WeightAtRisk        float64       `prop:"org.lockss.poll.v3.invitationWeightAtRisk" default:"1.0"`
	WeightSafety        float64       `prop:"org.lockss.poll.v3.invitationWeightSafety" default:"0.5"`
	NoInvitationSubnets []string      `prop:"org.lockss.poll.v3.noInvitationSubnets" default:""`
	AtRiskInstances     []string      `prop:"org.lockss.poll.v3.atRiskAuInstances" default:""` // "auid,peer,peer…" each
	NoAUResetCurve      string        `prop:"org.lockss.poll.v3.noAuResetIntervalCurve" default:"[1w,2d],[1w,7d],[30d,7d],[30d,30d],[100d,30d],[100d,50d]"`

	NominationAgeCurve string `prop:"org.lockss.poll.v3.nominationWeightAgeCurve" default:"[10d,1.0],[30d,0.1],[40d,0.01]"`
	MinNominations     int    `prop:"org.lockss.poll.v3.minNominationSize" default:"1"`
	MaxNominations     int    `prop:"org.lockss.poll.v3.maxNominationSize" default:"5"`

	AllowRepairs             bool          `prop:"org.lockss.poll.v3.allowV3Repairs" default:"true"`
	OpenAccessNeedsAgreement bool          `prop:"org.lockss.poll.v3.openAccessRepairNeedsAgreement" default:"false"`
	RepairAnyTrustedPeer     bool          `prop:"org.lockss.poll.v3.repairAnyTrustedPeer" default:"false"`
	MinAgreementForRepairs   float64       `prop:"org.lockss.poll.v3.minPercentAgreementForRepairs" default:"0.5"`
	ReputationTransfer       []string      `prop:"org.lockss.poll.v3.reputationTransferMap" default:""` // "old,new" each
	RepairerLiveness         time.Duration `prop:"org.lockss.poll.v3.willingRepairerLiveness" default:"2w"`
	MinAgreement             float64       `prop:"org.lockss.id.minPercentAgreement" default:"0.5"`
	UpdatesBeforeStoring     int           `prop:"org.lockss.id.updatesBeforeStoring" default:"100"`

	TrustedNetwork bool // TLS with client certificates (lcap-v3.md 2.8); set by the node
}

// Stats are what is remembered of one peer (lcap-v3.md 1.5). Zero times are "never".
type Stats struct {
	LastMessage time.Time `json:"lastMessage,omitzero"`
	LastOpcode  int       `json:"lastOpcode,omitempty"`
	LastInvited time.Time `json:"lastInvited,omitzero"` // by us
	LastCalled  time.Time `json:"lastCalled,omitzero"`  // a poll of its own that we accepted
	LastVoted   time.Time `json:"lastVoted,omitzero"`   // for us
	Messages    int       `json:"messages,omitempty"`
	Invitations int       `json:"invitations,omitempty"`
	Polls       int       `json:"polls,omitempty"`
	Votes       int       `json:"votes,omitempty"`
	Refusals    int       `json:"refusals,omitempty"`
	LastRefusal string    `json:"lastRefusal,omitempty"`
	Groups      []string  `json:"groups,omitempty"`
	GroupsAt    time.Time `json:"groupsAt,omitzero"`
	Revision    byte      `json:"revision,omitempty"` // minor version of its last message
}

// A Candidate is a peer that may be invited, with its weight.
type Candidate struct {
	Peer   lockss.PeerID
	Weight float64
}

// maxKnown bounds the known peers: nominations are claims of strangers. maxGroups bounds the
// groups kept of each, in bytes; longer ones count as unknown.
const (
	maxKnown  = 10000
	maxGroups = 4096
)

// settings are Params parsed.
type settings struct {
	Params
	initial   map[lockss.PeerID]bool
	age       lockss.Curve
	noAUReset lockss.Curve
	nominate  lockss.Curve
	subnets   []netip.Prefix
	atRisk    map[lockss.AUID]map[lockss.PeerID]bool
	inherits  map[lockss.PeerID]lockss.PeerID // new from old
}

// Peers is what this node knows of the others.
type Peers struct {
	local  lockss.PeerID
	files  func(au lockss.AUID) (Files, error)
	keeper Keeper
	log    *slog.Logger

	mu      sync.Mutex
	set     settings
	known   map[lockss.PeerID]*Stats
	updates int // since the last Save
	units   map[lockss.AUID]*unit
}

// unit is what is kept with one unit.
type unit struct {
	mu    sync.Mutex // held while files are read and written
	files Files
	agree *agreements
	noAU  datedSet
	fault error // the agreements cannot be kept: set once, reported on each write
}

// New reads the known peers. It reports all faults of the configuration.
func New(c Config) (*Peers, error) {
	p := &Peers{local: c.Local, files: c.Files, keeper: c.Keeper, log: c.Log,
		known: map[lockss.PeerID]*Stats{}, units: map[lockss.AUID]*unit{}}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	if c.Local == "" {
		errs = append(errs, errors.New("peer: no local identity"))
	}
	if c.Files == nil {
		errs = append(errs, errors.New("peer: no state files"))
	}
	if c.Keeper != nil {
		b, err := c.Keeper.Load()
		if err != nil {
			return nil, fmt.Errorf("read known peers: %w", err)
		}
		if len(b) > 0 {
			if err := json.Unmarshal(b, &p.known); err != nil {
				// Statistics only steer invitations and grow again; starting without them is
				// better than not starting.
				p.log.Warn("known peers unreadable, starting without", "err", err)
				p.known = map[lockss.PeerID]*Stats{}
			}
			maps.DeleteFunc(p.known, func(id lockss.PeerID, s *Stats) bool {
				n, err := lockss.ParsePeerID(string(id))
				return s == nil || err != nil || n != id
			})
		}
	}
	if err := p.Reconfigure(c.Params); err != nil {
		errs = append(errs, err)
	}
	return p, errors.Join(errs...)
}

// Reconfigure takes new parameters; on an error the old ones stay.
func (p *Peers) Reconfigure(c Params) error {
	s := settings{Params: c, initial: map[lockss.PeerID]bool{}, atRisk: map[lockss.AUID]map[lockss.PeerID]bool{},
		inherits: map[lockss.PeerID]lockss.PeerID{}}
	var errs []error
	curve := func(name, text string) lockss.Curve {
		v, err := lockss.ParseCurve(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("org.lockss.poll.v3.%s: %w", name, err))
		}
		return v
	}
	s.age = curve("invitationWeightAgeCurve", c.WeightAgeCurve)
	s.noAUReset = curve("noAuResetIntervalCurve", c.NoAUResetCurve)
	s.nominate = curve("nominationWeightAgeCurve", c.NominationAgeCurve)
	for _, t := range c.InitialPeers {
		id, err := lockss.ParsePeerID(t)
		if v1 := (*lockss.V1Error)(nil); errors.As(err, &v1) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("org.lockss.id.initialV3PeerList: %w", err))
			continue
		}
		s.initial[id] = true
	}
	for _, t := range c.NoInvitationSubnets {
		n, err := parseSubnet(t)
		if err != nil {
			errs = append(errs, fmt.Errorf("org.lockss.poll.v3.noInvitationSubnets: %w", err))
			continue
		}
		s.subnets = append(s.subnets, n)
	}
	for _, t := range c.AtRiskInstances {
		f := strings.Split(t, ",")
		m := map[lockss.PeerID]bool{}
		for _, t := range f[1:] {
			if id, err := lockss.ParsePeerID(t); err == nil {
				m[id] = true
			}
		}
		s.atRisk[lockss.AUID(strings.TrimSpace(f[0]))] = m
	}
	for _, t := range c.ReputationTransfer {
		from, to, _ := strings.Cut(t, ",")
		a, err1 := lockss.ParsePeerID(from)
		b, err2 := lockss.ParsePeerID(to)
		if err := errors.Join(err1, err2); err != nil {
			errs = append(errs, fmt.Errorf("org.lockss.poll.v3.reputationTransferMap: %q: %w", t, err))
			continue
		}
		s.inherits[b] = a
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set = s
	for id := range s.initial {
		p.learn(id)
	}
	return nil
}

// parseSubnet reads "192.0.2.0/24", an address, or the 1.x form "192.0.2.*".
func parseSubnet(t string) (netip.Prefix, error) {
	t = strings.TrimSpace(t)
	if host, ok := strings.CutSuffix(t, ".*"); ok {
		bits := 8 * len(strings.Split(host, "."))
		return netip.ParsePrefix(host + strings.Repeat(".0", 4-bits/8) + fmt.Sprintf("/%d", bits))
	}
	if a, err := netip.ParseAddr(t); err == nil {
		return a.Prefix(a.BitLen())
	}
	n, err := netip.ParsePrefix(t)
	return n.Masked(), err
}

// learn makes a peer known; p.mu is held. The result is nil for ourselves, and for a stranger
// when too many are known. Those of the configured list always have a place: whoever claims
// thousands of identities must not keep us from those we were told of.
func (p *Peers) learn(id lockss.PeerID) *Stats {
	if id == p.local || id == "" {
		return nil
	}
	s := p.known[id]
	if s == nil {
		if len(p.known) >= maxKnown && !p.forgetSilent() && !p.set.initial[id] {
			return nil
		}
		s = &Stats{}
		p.known[id] = s
		p.updates++
	}
	return s
}

// forgetSilent forgets one stranger that never sent a message; p.mu is held. It is false when
// there is none.
func (p *Peers) forgetSilent() bool {
	for id, s := range p.known {
		if s.Messages == 0 && !p.set.initial[id] {
			delete(p.known, id)
			return true
		}
	}
	return false
}

// update changes the statistics of a peer and saves them now and then.
func (p *Peers) update(id lockss.PeerID, f func(*Stats)) {
	p.mu.Lock()
	s := p.learn(id)
	if s == nil {
		p.mu.Unlock()
		return
	}
	f(s)
	p.updates++
	due := p.updates >= max(p.set.UpdatesBeforeStoring, 1)
	p.mu.Unlock()
	if due {
		if err := p.Flush(); err != nil {
			p.log.Warn("known peers not saved", "err", err)
		}
	}
}

// Flush saves the known peers if they changed.
func (p *Peers) Flush() error {
	p.mu.Lock()
	if p.keeper == nil || p.updates == 0 {
		p.mu.Unlock()
		return nil
	}
	b, err := json.Marshal(p.known)
	p.updates = 0
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("save known peers: %w", err)
	}
	if err := p.keeper.Save(b); err != nil {
		return fmt.Errorf("save known peers: %w", err)
	}
	return nil
}

// Learn makes peers known: they introduced themselves or were nominated.
func (p *Peers) Learn(ids ...lockss.PeerID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		p.learn(id)
	}
}

// Heard notes a message. groups is nil if it carried none.
func (p *Peers) Heard(now time.Time, from lockss.PeerID, opcode int, groups []string, revision byte) {
	size := 0
	for _, g := range groups {
		size += len(g) + 1
	}
	p.update(from, func(s *Stats) {
		s.LastMessage, s.LastOpcode, s.Revision = now, opcode, revision
		s.Messages++
		if len(groups) > 0 && size <= maxGroups {
			s.Groups, s.GroupsAt = groups, now
		}
	})
}

// Invited notes that we invite a peer. A peer of foreign groups is from now on not asked again
// until the retry time has passed once more.
func (p *Peers) Invited(now time.Time, to lockss.PeerID) {
	p.update(to, func(s *Stats) {
		s.LastInvited = now
		s.Invitations++
		if len(s.Groups) > 0 && !intersect(s.Groups, p.set.Groups) {
			s.GroupsAt = now
		}
	})
}

// Called notes a poll of this peer that we accepted.
func (p *Peers) Called(now time.Time, by lockss.PeerID) {
	p.update(by, func(s *Stats) { s.LastCalled = now; s.Polls++ })
}

// Voted notes a vote for us.
func (p *Peers) Voted(now time.Time, by lockss.PeerID) {
	p.update(by, func(s *Stats) { s.LastVoted = now; s.Votes++ })
}

// Refused notes a refusal with its code.
func (p *Peers) Refused(by lockss.PeerID, code string) {
	p.update(by, func(s *Stats) { s.Refusals++; s.LastRefusal = code })
}

// Known returns a copy of what is known of all peers.
func (p *Peers) Known() map[lockss.PeerID]Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := make(map[lockss.PeerID]Stats, len(p.known))
	for id, s := range p.known {
		c := *s
		c.Groups = slices.Clone(s.Groups)
		m[id] = c
	}
	return m
}

// intersect reports whether two lists of groups have one in common (exact text).
func intersect(a, b []string) bool {
	return slices.ContainsFunc(a, func(g string) bool { return slices.Contains(b, g) })
}

// eligible reports whether a peer may be invited to a poll on au (lcap-v3.md 11.3), as far as
// the peer itself goes; p.mu is held.
func (p *Peers) eligible(id lockss.PeerID, s *Stats, noAU map[lockss.PeerID]bool, now time.Time, revision byte) bool {
	if id == p.local || noAU[id] || p.inSubnets(id) {
		return false
	}
	if s == nil {
		return true
	}
	if s.Revision != 0 && s.Revision != revision {
		return false
	}
	return len(s.Groups) == 0 || intersect(s.Groups, p.set.Groups) || now.Sub(s.GroupsAt) > p.set.WrongGroupRetryTime
}

func (p *Peers) inSubnets(id lockss.PeerID) bool {
	a := id.AddrPort().Addr()
	return slices.ContainsFunc(p.set.subnets, func(n netip.Prefix) bool { return n.Contains(a) })
}

// Eligible reports whether a nominated peer may be invited to a poll on au.
func (p *Peers) Eligible(au lockss.AUID, id lockss.PeerID, now time.Time, revision byte) bool {
	noAU := p.noAUPeers(au)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.set.Discovery && !p.set.initial[id] {
		return false
	}
	return p.eligible(id, p.known[id], noAU, now, revision)
}

// Candidates returns the peers that may be invited to a poll of this revision on au, with their
// weights (lcap-v3.md 11.3), sorted by identity. created is when the unit came to this node;
// the set of peers without the unit is emptied when it is old enough for that age.
func (p *Peers) Candidates(au lockss.AUID, now, created time.Time, revision byte) []Candidate {
	p.resetNoAU(au, now, created)
	noAU := p.noAUPeers(au)
	repairers := p.highest(au, POR)
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Candidate
	for id, s := range p.known {
		if !p.set.Discovery && !p.set.initial[id] || !p.eligible(id, s, noAU, now, revision) {
			continue
		}
		// Never invited: age 0 or below, full weight. Invited but never heard of: the age is
		// that of the zero time, so the least weight.
		w := 1.0
		if !s.LastInvited.IsZero() {
			w = p.set.age.At(float64(s.LastInvited.Sub(s.LastMessage).Milliseconds()))
		}
		if p.set.atRisk[au][id] {
			w *= p.set.WeightAtRisk
		}
		if h, ok := repairers[id]; ok && float64(h) >= p.set.MinAgreementForRepairs {
			w *= p.set.WeightSafety
		}
		if w > 0 {
			out = append(out, Candidate{id, w})
		}
	}
	slices.SortFunc(out, func(a, b Candidate) int { return strings.Compare(string(a.Peer), string(b.Peer)) })
	return out
}

// Nominees returns the peers we name to a poller (lcap-v3.md 10.5), none if we know none that
// is in our groups and not known to lack the unit.
func (p *Peers) Nominees(au lockss.AUID, poller lockss.PeerID, now time.Time, rng *rand.Rand) []lockss.PeerID {
	noAU := p.noAUPeers(au)
	p.mu.Lock()
	defer p.mu.Unlock()
	var c []Candidate
	for id, s := range p.known {
		if id == poller || id == p.local || noAU[id] || !intersect(s.Groups, p.set.Groups) {
			continue
		}
		c = append(c, Candidate{id, p.set.nominate.At(float64(now.Sub(s.LastVoted).Milliseconds()))})
	}
	slices.SortFunc(c, func(a, b Candidate) int { return strings.Compare(string(a.Peer), string(b.Peer)) })
	n := p.set.MinNominations
	if d := p.set.MaxNominations - n; d > 0 {
		n += rng.IntN(d)
	}
	return Choose(c, n, rng)
}

// Choose takes up to n candidates at random, without replacement, with a probability
// proportional to their weights. The result has the order of choice; c is not changed.
func Choose(c []Candidate, n int, rng *rand.Rand) []lockss.PeerID {
	c = slices.Clone(c)
	total := 0.0
	for i := range c {
		c[i].Weight = max(c[i].Weight, 0)
		total += c[i].Weight
	}
	var out []lockss.PeerID
	for len(out) < n && len(c) > 0 {
		x, i := rng.Float64()*total, 0
		for ; i < len(c)-1 && x >= c[i].Weight; i++ {
			x -= c[i].Weight
		}
		out = append(out, c[i].Peer)
		total -= c[i].Weight
		c = slices.Delete(c, i, i+1)
	}
	return out
}

// open returns what is kept with a unit, with u.mu held.
func (p *Peers) open(au lockss.AUID) (*unit, error) {
	p.mu.Lock()
	u := p.units[au]
	if u == nil {
		u = &unit{}
		p.units[au] = u
	}
	p.mu.Unlock()
	u.mu.Lock()
	if u.agree != nil {
		return u, nil
	}
	f, err := p.files(au)
	if err != nil {
		u.mu.Unlock()
		return nil, fmt.Errorf("state files of %s: %w", au, err)
	}
	if err := p.load(u, au, f); err != nil {
		u.mu.Unlock()
		return nil, err
	}
	return u, nil
}

func readState(f Files, name string) ([]byte, error) {
	b, err := f.ReadState(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && len(b) > maxStateFile {
		return nil, fmt.Errorf("%d bytes, more than %d", len(b), maxStateFile)
	}
	return b, err
}

// load reads the files of a unit. A file that cannot be understood is kept aside and reported in
// the log; one that cannot be read is an error, so that it is not overwritten.
func (p *Peers) load(u *unit, au lockss.AUID, f Files) error {
	b, err := readState(f, agreementFile)
	if err != nil {
		return &FileError{AU: au, Name: agreementFile, Err: err}
	}
	u.files, u.fault = f, nil
	agree := newAgreements()
	if len(b) > 0 {
		a, old, err := parseAgreements(b)
		switch {
		case err != nil:
			fe := &FileError{AU: au, Name: agreementFile, Err: err}
			if fe.Aside, err = setAside(f, agreementFile+".deser.old", b); err != nil {
				fe.Err = errors.Join(fe.Err, err)
				u.fault = fe
			}
			p.log.Error("agreements unreadable", "au", au, "err", fe)
		case old:
			agree = a
			if _, err := setAside(f, agreementFile+".old", b); err != nil {
				u.fault = &FileError{AU: au, Name: agreementFile, Err: err}
			}
		default:
			agree = a
		}
	}
	u.noAU = datedSet{peers: map[lockss.PeerID]bool{}}
	if b, err = readState(f, noAUFile); err != nil {
		return &FileError{AU: au, Name: noAUFile, Err: err}
	}
	if len(b) > 0 {
		// The set only saves invitations; one that is damaged starts anew.
		if u.noAU, err = parseDatedSet(b); err != nil {
			p.log.Warn("set of peers without the unit unreadable, starting without", "au", au, "err", err)
		}
	}
	u.agree = agree
	return nil
}

// setAside keeps bytes under the first free name, and returns it.
func setAside(f Files, name string, b []byte) (string, error) {
	for i := range 100 {
		n := name
		if i > 0 {
			n = fmt.Sprintf("%s.%d", name, i)
		}
		old, err := readState(f, n)
		if err != nil {
			return "", fmt.Errorf("keep aside as %s: %w", n, err)
		}
		if string(old) == string(b) {
			return n, nil
		}
		if len(old) > 0 {
			continue
		}
		if err := f.WriteState(n, b); err != nil {
			return "", fmt.Errorf("keep aside as %s: %w", n, err)
		}
		return n, nil
	}
	return "", fmt.Errorf("100 files %s.* are there already: look at them and remove some", name)
}

// Forget drops what is held in memory of a unit, for one that was removed or whose files were
// replaced from outside. The files stay.
func (p *Peers) Forget(au lockss.AUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.units, au)
}
