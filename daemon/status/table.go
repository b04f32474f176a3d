package status

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"armarium/daemon/lockss"
)

// A Type says what the values of a column are, raw (in JSON) and shown (Format).
type Type string

// The types. A value that is absent or not known is missing in its row.
const (
	Text    Type = "text"
	Int     Type = "int"     // 1234567, shown 1,234,567
	Bytes   Type = "bytes"   // 1234567, shown 1.2 MB
	Percent Type = "percent" // fraction 0 to 1, shown 98.76%, cut, not rounded: 100% means all
	Time    Type = "time"    // RFC 3339, shown 2026-11-21 12:48 UTC
	Bool    Type = "bool"    // shown yes or no
	AU      Type = "au"      // AUID
	Peer    Type = "peer"    // peer identity
	URL     Type = "url"     // preserved URL
	Poll    Type = "poll"    // poll key
	Crawl   Type = "crawl"   // number of a crawl
)

// A Column of a Table.
type Column struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	Type  Type   `json:"type"`
}

// A Row holds values by column name.
type Row map[string]any

// A Table is rows under columns.
type Table struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	Columns []Column `json:"columns"`
	Rows    []Row    `json:"rows"`
	Next    string   `json:"next,omitempty"` // After of the next page, if there is one
}

// Params select what is in a table.
type Params struct {
	Key    string // of tables that need one: an AUID, poll key or crawl number
	URL    string // versions: the URL
	AU     lockss.AUID
	Before time.Time
	After  string // urls: begin after this URL
	Limit  int    // rows; 0: DefaultLimit
}

// Limits of Params.Limit.
const (
	DefaultLimit = 100
	MaxLimit     = 10000
)

// A column of rows of type R. A val of nil is left out of its row.
type column[R any] struct {
	name, title string
	typ         Type
	val         func(*R) any
}

func build[R any](name, title string, rows []R, columns []column[R]) *Table {
	t := &Table{Name: name, Title: title, Rows: make([]Row, 0, len(rows))}
	for _, c := range columns {
		t.Columns = append(t.Columns, Column{c.name, c.title, c.typ})
	}
	for i := range rows {
		row := Row{}
		for _, c := range columns {
			if v := known(c.typ, c.val(&rows[i])); v != nil {
				row[c.name] = v
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// known gives nil for values that stand for "not known" or "never".
func known(typ Type, v any) any {
	switch x := v.(type) {
	case time.Time:
		if x.IsZero() {
			return nil
		}
	case float64:
		if x < 0 {
			return nil
		}
	case int:
		if x < 0 {
			return nil
		}
	case int64:
		if x < 0 || typ == Crawl && x == 0 {
			return nil
		}
	case string:
		if x == "" {
			return nil
		}
	case lockss.PeerID:
		if x == "" {
			return nil
		}
	}
	return v
}

// The tables that need no key, and those that do.
var (
	plainTables = map[string]func(Sources, Params) (*Table, error){
		"aus": Sources.aus, "crawls": Sources.crawls, "polls": Sources.polls, "votes": Sources.votes,
		"peers": Sources.peers, "agreements": Sources.agreements, "repairs": Sources.repairs,
		"disks": Sources.disks, "titles": Sources.titles, "plugins": Sources.plugins,
		"actions": Sources.actions, "config": Sources.config,
	}
	keyedTables = map[string]func(Sources, Params) (*Table, error){
		"urls": Sources.urls, "versions": Sources.versions, "participants": Sources.participants,
		"damage": Sources.damage, "failures": Sources.failures,
	}
)

// Names lists the tables that need no key, sorted.
func Names() []string { return slices.Sorted(maps.Keys(plainTables)) }

// Table makes a table. Errors wrap ErrNotFound for an unknown table, or a key that there is
// not.
func (s Sources) Table(name string, p Params) (*Table, error) {
	if p.Limit <= 0 {
		p.Limit = DefaultLimit
	}
	p.Limit = min(p.Limit, MaxLimit)
	f := plainTables[name]
	if f == nil {
		f = keyedTables[name]
	}
	if f == nil {
		return nil, fmt.Errorf("table %q: %w; there are %s", name, ErrNotFound, strings.Join(Names(), ", "))
	}
	t, err := f(s, p)
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", name, err)
	}
	return t, nil
}

func (p Params) query() Query { return Query{AU: p.AU, Before: p.Before, Limit: p.Limit} }

// FindAU gives one collection, or ErrNotFound.
func (s Sources) FindAU(id lockss.AUID) (AURow, error) {
	if s.AUs != nil {
		for _, r := range s.AUs() {
			if r.AU == id {
				return r, nil
			}
		}
	}
	return AURow{}, fmt.Errorf("collection %s: %w", id, ErrNotFound)
}

func (s Sources) aus(p Params) (*Table, error) {
	var rows []AURow
	if s.AUs != nil {
		rows = slices.Clone(s.AUs())
	}
	slices.SortStableFunc(rows, func(a, b AURow) int { return CompareNames(a.Name, b.Name) })
	return build("aus", "Collections", rows, []column[AURow]{
		{"au", "Collection", AU, func(r *AURow) any { return r.AU }},
		{"name", "Name", Text, func(r *AURow) any { return r.Name }},
		{"state", "State", Text, func(r *AURow) any { return r.State() }},
		{"agreement", "Agreement", Percent, func(r *AURow) any { return r.Agreement }},
		{"damaged", "Damaged", Int, func(r *AURow) any { return r.Damaged }},
		{"urls", "URLs", Int, func(r *AURow) any { return r.URLs }},
		{"bytes", "Size", Bytes, func(r *AURow) any { return r.Bytes }},
		{"crawled", "Last good crawl", Time, func(r *AURow) any { return r.Crawled }},
		{"crawlResult", "Last crawl", Text, func(r *AURow) any { return r.CrawlResult }},
		{"polled", "Last complete poll", Time, func(r *AURow) any { return r.Polled }},
		{"pollResult", "Last poll", Text, func(r *AURow) any { return r.PollResult }},
		{"disk", "Disk", Text, func(r *AURow) any { return r.Disk }},
		{"plugin", "Plugin", Text, func(r *AURow) any { return r.Plugin }},
		{"internal", "Internal", Bool, func(r *AURow) any { return r.Internal }},
	}), nil
}

// State is a collection in a few words.
func (r AURow) State() string {
	switch {
	case r.Fault != "":
		return "Not in service"
	case r.Crawling:
		return "Crawling"
	case r.Polling:
		return "Polling"
	case r.Crawled.IsZero() && !r.PublisherDown && !r.Holds():
		return "Waiting for crawl"
	case r.Internal && r.Polled.IsZero():
		return "Collected"
	case r.Damaged > 0:
		return "Damaged"
	case r.Polled.IsZero() && r.NoQuorum:
		return "No quorum"
	case r.Polled.IsZero():
		return "Waiting for poll"
	case r.NoQuorum:
		return "No quorum in the last poll"
	case r.Undecided > 0:
		return "Partly undecided"
	}
	return "Confirmed"
}

// Holds tells whether the collection is known to have content.
func (r AURow) Holds() bool { return r.URLs > 0 }

func (s Sources) crawls(p Params) (*Table, error) {
	rows, err := rowsOf(s.Crawls, p)
	return build("crawls", "Crawls", rows, []column[CrawlRow]{
		{"id", "Crawl", Crawl, func(r *CrawlRow) any { return r.ID }},
		{"au", "Collection", AU, func(r *CrawlRow) any { return r.AU }},
		{"name", "Name", Text, func(r *CrawlRow) any { return r.Name }},
		{"kind", "Kind", Text, func(r *CrawlRow) any { return r.Kind }},
		{"started", "Started", Time, func(r *CrawlRow) any { return r.Started }},
		{"ended", "Ended", Time, func(r *CrawlRow) any { return r.Ended }},
		{"running", "Running", Bool, func(r *CrawlRow) any { return r.Running }},
		{"ok", "Good", Bool, func(r *CrawlRow) any {
			if r.Running {
				return nil
			}
			return r.OK
		}},
		{"status", "Status", Text, func(r *CrawlRow) any { return r.Status }},
		{"message", "Message", Text, func(r *CrawlRow) any { return r.Message }},
		{"fetched", "Fetched", Int, func(r *CrawlRow) any { return r.Fetched }},
		{"notModified", "Not modified", Int, func(r *CrawlRow) any { return r.NotModified }},
		{"excluded", "Excluded", Int, func(r *CrawlRow) any { return r.Excluded }},
		{"errors", "Errors", Int, func(r *CrawlRow) any { return r.Errors }},
		{"queued", "Queued", Int, func(r *CrawlRow) any { return r.Queued }},
		{"bytes", "Bytes", Bytes, func(r *CrawlRow) any { return r.Bytes }},
		{"current", "Fetching", URL, func(r *CrawlRow) any { return r.Current }},
	}), err
}

func (s Sources) failures(p Params) (*Table, error) {
	id, err := strconv.ParseInt(p.Key, 10, 64)
	if err != nil || s.Crawl == nil {
		return nil, fmt.Errorf("crawl %q: %w", p.Key, ErrNotFound)
	}
	c, err := s.Crawl(id)
	return build("failures", "URLs that could not be fetched", c.Failures, []column[CrawlFailure]{
		{"url", "URL", URL, func(r *CrawlFailure) any { return r.URL }},
		{"reason", "Reason", Text, func(r *CrawlFailure) any { return r.Reason }},
	}), err
}

func (s Sources) polls(p Params) (*Table, error) {
	rows, err := rowsOf(s.Polls, p)
	return build("polls", "Polls", rows, []column[PollRow]{
		{"key", "Poll", Poll, func(r *PollRow) any { return r.Key }},
		{"au", "Collection", AU, func(r *PollRow) any { return r.AU }},
		{"name", "Name", Text, func(r *PollRow) any { return r.Name }},
		{"variant", "Type", Text, func(r *PollRow) any { return r.Variant }},
		{"started", "Started", Time, func(r *PollRow) any { return r.Started }},
		{"ended", "Ended", Time, func(r *PollRow) any { return r.Ended }},
		{"deadline", "Deadline", Time, func(r *PollRow) any { return r.Deadline }},
		{"running", "Running", Bool, func(r *PollRow) any { return r.Running }},
		{"status", "Status", Text, func(r *PollRow) any { return r.Status }},
		{"quorum", "Quorum", Int, func(r *PollRow) any { return r.Quorum }},
		{"voters", "Voters", Int, func(r *PollRow) any { return r.Voters }},
		{"agreement", "Agreement", Percent, func(r *PollRow) any { return r.Agreement }},
		{"urls", "URLs", Int, func(r *PollRow) any { return r.URLs }},
		{"won", "Won", Int, func(r *PollRow) any { return r.Won }},
		{"lost", "Lost", Int, func(r *PollRow) any { return r.Lost }},
		{"extra", "Only here", Int, func(r *PollRow) any { return r.Extra }},
		{"tooClose", "Too close", Int, func(r *PollRow) any { return r.TooClose }},
		{"noQuorum", "No quorum", Int, func(r *PollRow) any { return r.NoQuorum }},
		{"repairs", "Repairs", Int, func(r *PollRow) any { return r.Repairs }},
		{"pending", "Repairs pending", Int, func(r *PollRow) any { return r.Pending }},
		{"sentence", "In words", Text, func(r *PollRow) any { return r.Sentence }},
	}), err
}

func (s Sources) poll(key string) (PollRow, error) {
	if s.Poll == nil {
		return PollRow{}, fmt.Errorf("poll %s: %w", key, ErrNotFound)
	}
	return s.Poll(key)
}

func (s Sources) participants(p Params) (*Table, error) {
	r, err := s.poll(p.Key)
	return build("participants", "Participants", r.Participants, []column[ParticipantRow]{
		{"peer", "Peer", Peer, func(r *ParticipantRow) any { return r.Peer }},
		{"status", "Status", Text, func(r *ParticipantRow) any { return r.Status }},
		{"reason", "Reason", Text, func(r *ParticipantRow) any { return r.Reason }},
		{"invited", "Invited", Time, func(r *ParticipantRow) any { return r.Invited }},
		{"voted", "Voted", Time, func(r *ParticipantRow) any { return r.Voted }},
		{"agreement", "Agreement", Percent, func(r *ParticipantRow) any { return r.Agreement }},
		{"agree", "Agree", Int, func(r *ParticipantRow) any { return r.Agree }},
		{"disagree", "Disagree", Int, func(r *ParticipantRow) any { return r.Disagree }},
		{"pollerOnly", "Only here", Int, func(r *ParticipantRow) any { return r.PollerOnly }},
		{"voterOnly", "Only there", Int, func(r *ParticipantRow) any { return r.VoterOnly }},
		{"outer", "Nominated", Bool, func(r *ParticipantRow) any { return r.Outer }},
	}), err
}

func (s Sources) damage(p Params) (*Table, error) {
	r, err := s.poll(p.Key)
	return build("damage", "URLs not found in order", r.Damage, []column[DamageRow]{
		{"url", "URL", URL, func(r *DamageRow) any { return r.URL }},
		{"result", "Result", Text, func(r *DamageRow) any { return r.Result }},
		{"agree", "Agree", Int, func(r *DamageRow) any { return r.Agree }},
		{"disagree", "Disagree", Int, func(r *DamageRow) any { return r.Disagree }},
		{"repair", "Repair", Text, func(r *DamageRow) any { return r.Repair }},
		{"from", "Repaired from", Peer, func(r *DamageRow) any { return r.From }},
		{"after", "After repair", Text, func(r *DamageRow) any { return r.After }},
	}), err
}

func (s Sources) votes(p Params) (*Table, error) {
	rows, err := rowsOf(s.Votes, p)
	return build("votes", "Votes", rows, []column[VoteRow]{
		{"key", "Poll", Text, func(r *VoteRow) any { return r.Key }},
		{"au", "Collection", AU, func(r *VoteRow) any { return r.AU }},
		{"name", "Name", Text, func(r *VoteRow) any { return r.Name }},
		{"poller", "Caller", Peer, func(r *VoteRow) any { return r.Poller }},
		{"status", "Status", Text, func(r *VoteRow) any { return r.Status }},
		{"reason", "Reason", Text, func(r *VoteRow) any { return r.Reason }},
		{"running", "Running", Bool, func(r *VoteRow) any { return r.Running }},
		{"started", "Started", Time, func(r *VoteRow) any { return r.Started }},
		{"ended", "Ended", Time, func(r *VoteRow) any { return r.Ended }},
		{"deadline", "Deadline", Time, func(r *VoteRow) any { return r.Deadline }},
		{"urls", "URLs", Int, func(r *VoteRow) any { return r.URLs }},
		{"agreement", "Agreement", Percent, func(r *VoteRow) any { return r.Agreement }},
		{"served", "Repairs given", Int, func(r *VoteRow) any { return r.Served }},
		{"refused", "Repairs refused", Int, func(r *VoteRow) any { return r.Refused }},
	}), err
}

func (s Sources) peers(Params) (*Table, error) {
	var rows []PeerRow
	if s.Peers != nil {
		rows = slices.Clone(s.Peers())
	}
	slices.SortStableFunc(rows, func(a, b PeerRow) int { return cmp.Compare(a.Peer, b.Peer) })
	return build("peers", "Peers", rows, []column[PeerRow]{
		{"peer", "Peer", Peer, func(r *PeerRow) any { return r.Peer }},
		{"configured", "In the peer list", Bool, func(r *PeerRow) any { return r.Configured }},
		{"lastMessage", "Last heard of", Time, func(r *PeerRow) any { return r.LastMessage }},
		{"lastVoted", "Last vote for us", Time, func(r *PeerRow) any { return r.LastVoted }},
		{"lastCalled", "Last poll of its own", Time, func(r *PeerRow) any { return r.LastCalled }},
		{"lastInvited", "Last invited", Time, func(r *PeerRow) any { return r.LastInvited }},
		{"messages", "Messages", Int, func(r *PeerRow) any { return r.Messages }},
		{"invitations", "Invitations", Int, func(r *PeerRow) any { return r.Invitations }},
		{"votes", "Votes", Int, func(r *PeerRow) any { return r.Votes }},
		{"polls", "Polls", Int, func(r *PeerRow) any { return r.Polls }},
		{"refusals", "Refusals", Int, func(r *PeerRow) any { return r.Refusals }},
		{"lastRefusal", "Last refusal", Text, func(r *PeerRow) any { return r.LastRefusal }},
		{"state", "Connection", Text, func(r *PeerRow) any { return r.State }},
		{"fault", "Last fault", Text, func(r *PeerRow) any { return r.Fault }},
		{"groups", "Groups", Text, func(r *PeerRow) any { return strings.Join(r.Groups, ";") }},
	}), nil
}

func (s Sources) agreements(p Params) (*Table, error) {
	var rows []AgreementRow
	var err error
	if s.Agree != nil {
		rows, err = s.Agree()
	}
	if p.AU != "" {
		rows = slices.DeleteFunc(slices.Clone(rows), func(r AgreementRow) bool { return r.AU != p.AU })
	}
	return build("agreements", "Agreement with peers", rows, []column[AgreementRow]{
		{"au", "Collection", AU, func(r *AgreementRow) any { return r.AU }},
		{"name", "Name", Text, func(r *AgreementRow) any { return r.Name }},
		{"peer", "Peer", Peer, func(r *AgreementRow) any { return r.Peer }},
		{"last", "Last", Percent, func(r *AgreementRow) any { return r.Last }},
		{"lastAt", "Measured", Time, func(r *AgreementRow) any { return r.LastAt }},
		{"highest", "Highest", Percent, func(r *AgreementRow) any { return r.Highest }},
		{"highestAt", "When", Time, func(r *AgreementRow) any { return r.HighestAt }},
		{"hint", "As it measured us", Percent, func(r *AgreementRow) any { return r.Hint }},
		{"hintAt", "When it did", Time, func(r *AgreementRow) any { return r.HintAt }},
		{"repairs", "May have repairs from us", Bool, func(r *AgreementRow) any { return r.Repairs }},
	}), err
}

func (s Sources) repairs(p Params) (*Table, error) {
	rows, err := rowsOf(s.Repairs, p)
	return build("repairs", "Repairs", rows, []column[RepairRow]{
		{"at", "When", Time, func(r *RepairRow) any { return r.At }},
		{"au", "Collection", AU, func(r *RepairRow) any { return r.AU }},
		{"name", "Name", Text, func(r *RepairRow) any { return r.Name }},
		{"url", "URL", URL, func(r *RepairRow) any { return r.URL }},
		{"result", "Result", Text, func(r *RepairRow) any { return r.Result }},
		{"reason", "Reason", Text, func(r *RepairRow) any { return r.Reason }},
		{"from", "From", Text, func(r *RepairRow) any { return cmp.Or(string(r.From), "publisher") }},
		{"version", "New version", Int, func(r *RepairRow) any {
			if r.Version == 0 {
				return nil
			}
			return r.Version
		}},
		{"poll", "Poll", Poll, func(r *RepairRow) any { return r.Poll }},
		{"old", "Checksum before", Text, func(r *RepairRow) any { return r.Old }},
		{"new", "Checksum after", Text, func(r *RepairRow) any { return r.New }},
	}), err
}

func (s Sources) disks(Params) (*Table, error) {
	var rows []DiskRow
	if s.Disks != nil {
		rows = s.Disks()
	}
	size := func(r *DiskRow, n uint64) any {
		if r.Total == 0 {
			return nil
		}
		return int64(n)
	}
	return build("disks", "Disks", rows, []column[DiskRow]{
		{"path", "Disk", Text, func(r *DiskRow) any { return r.Path }},
		{"state", "State", Text, func(r *DiskRow) any { return r.State }},
		{"fault", "Fault", Text, func(r *DiskRow) any { return r.Fault }},
		{"level", "Space", Text, func(r *DiskRow) any { return r.Level }},
		{"total", "Size", Bytes, func(r *DiskRow) any { return size(r, r.Total) }},
		{"free", "Free", Bytes, func(r *DiskRow) any { return size(r, r.Free) }},
		{"units", "Collections", Int, func(r *DiskRow) any { return r.Units }},
		{"device", "Device", Text, func(r *DiskRow) any { return r.Device }},
		{"serial", "Serial number", Text, func(r *DiskRow) any { return r.Serial }},
		{"note", "Note", Text, func(r *DiskRow) any { return r.Note }},
	}), nil
}

func (s Sources) titles(Params) (*Table, error) {
	var rows []TitleRow
	if s.Titles != nil {
		rows = slices.Clone(s.Titles())
	}
	slices.SortStableFunc(rows, func(a, b TitleRow) int { return CompareNames(a.Name, b.Name) })
	return build("titles", "Titles", rows, []column[TitleRow]{
		{"key", "Key", Text, func(r *TitleRow) any { return r.Key }},
		{"name", "Title", Text, func(r *TitleRow) any { return r.Name }},
		{"journal", "Journal", Text, func(r *TitleRow) any { return r.Journal }},
		{"plugin", "Plugin", Text, func(r *TitleRow) any { return r.Plugin }},
		{"au", "Collection", AU, func(r *TitleRow) any {
			if r.AU == "" {
				return nil
			}
			return r.AU
		}},
		{"added", "On this node", Bool, func(r *TitleRow) any { return r.Added }},
		{"problem", "Problem", Text, func(r *TitleRow) any { return r.Problem }},
	}), nil
}

func (s Sources) plugins(Params) (*Table, error) {
	var rows []PluginRow
	if s.Plugins != nil {
		rows = s.Plugins()
	}
	return build("plugins", "Plugins", rows, []column[PluginRow]{
		{"name", "Name", Text, func(r *PluginRow) any { return r.Name }},
		{"id", "Plugin", Text, func(r *PluginRow) any { return r.ID }},
		{"version", "Version", Text, func(r *PluginRow) any { return r.Version }},
		{"aus", "Collections", Int, func(r *PluginRow) any { return r.AUs }},
		{"origin", "From", Text, func(r *PluginRow) any { return r.Origin }},
		{"signer", "Signed by", Text, func(r *PluginRow) any { return r.Signer }},
		{"fault", "Fault", Text, func(r *PluginRow) any { return r.Fault }},
	}), nil
}

func (s Sources) actions(p Params) (*Table, error) {
	rows, err := rowsOf(s.Actions, p)
	return build("actions", "Audit trail", rows, []column[ActionRow]{
		{"at", "When", Time, func(r *ActionRow) any { return r.At }},
		{"user", "User", Text, func(r *ActionRow) any { return r.User }},
		{"what", "Action", Text, func(r *ActionRow) any { return r.What }},
		{"object", "Object", Text, func(r *ActionRow) any { return r.Object }},
		{"result", "Result", Text, func(r *ActionRow) any { return r.Result }},
	}), err
}

func (s Sources) config(Params) (*Table, error) {
	var rows []ConfigRow
	if s.Config != nil {
		rows = slices.Clone(s.Config())
	}
	for i := range rows {
		if secret(rows[i].Name) && rows[i].Value != "" {
			rows[i].Value = "(hidden)"
		}
	}
	slices.SortStableFunc(rows, func(a, b ConfigRow) int { return cmp.Compare(a.Name, b.Name) })
	return build("config", "Configuration", rows, []column[ConfigRow]{
		{"name", "Parameter", Text, func(r *ConfigRow) any { return r.Name }},
		{"value", "Value", Text, func(r *ConfigRow) any { return r.Value }},
		{"origin", "Set by", Text, func(r *ConfigRow) any { return r.Origin }},
		{"note", "Note", Text, func(r *ConfigRow) any { return r.Note }},
	}), nil
}

// secret tells whether a parameter's value is not to be shown: passwords, and AU parameters
// that hold one.
func secret(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"password", "passwd", "passphrase", "secret", "user_pass"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

func (s Sources) urls(p Params) (*Table, error) {
	if s.URLs == nil {
		return nil, ErrNotFound
	}
	rows, err := s.URLs(lockss.AUID(p.Key), p.After, p.Limit)
	t := build("urls", "Preserved URLs", rows, []column[URLRow]{
		{"url", "URL", URL, func(r *URLRow) any { return r.URL }},
		{"version", "Version", Int, func(r *URLRow) any { return r.Version }},
		{"size", "Size", Bytes, func(r *URLRow) any { return r.Size }},
		{"versions", "Versions", Int, func(r *URLRow) any { return r.Versions }},
		{"checksum", "Checksum", Text, func(r *URLRow) any { return r.Checksum }},
	})
	if len(rows) == p.Limit {
		t.Next = rows[len(rows)-1].URL
	}
	return t, err
}

func (s Sources) versions(p Params) (*Table, error) {
	if s.Version == nil {
		return nil, ErrNotFound
	}
	rows, err := s.Version(lockss.AUID(p.Key), p.URL)
	return build("versions", "Versions", rows, []column[VersionRow]{
		{"version", "Version", Int, func(r *VersionRow) any { return r.Version }},
		{"current", "Current", Bool, func(r *VersionRow) any { return r.Current }},
		{"size", "Size", Bytes, func(r *VersionRow) any { return r.Size }},
		{"type", "Type", Text, func(r *VersionRow) any { return r.Type }},
		{"collected", "Collected", Time, func(r *VersionRow) any { return r.Collected }},
		{"from", "Repaired from", Peer, func(r *VersionRow) any { return r.From }},
		{"checksum", "Checksum", Text, func(r *VersionRow) any { return r.Checksum }},
		{"fault", "Fault", Text, func(r *VersionRow) any { return r.Fault }},
	}), err
}

// rowsOf asks a history, if the node has it.
func rowsOf[R any](source func(Query) ([]R, error), p Params) ([]R, error) {
	if source == nil {
		return nil, nil
	}
	return source(p.query())
}

// Format shows a value as people read it; nil is "".
func Format(typ Type, v any) string {
	switch x := v.(type) {
	case nil:
		return ""
	case time.Time:
		return FormatTime(x)
	case bool:
		if x {
			return "yes"
		}
		return "no"
	case float64:
		if typ == Percent {
			return FormatPercent(x)
		}
	case int:
		return FormatInt(int64(x))
	case int64:
		switch typ {
		case Bytes:
			return FormatBytes(x)
		case Crawl:
			return strconv.FormatInt(x, 10)
		}
		return FormatInt(x)
	}
	return fmt.Sprint(v)
}

// FormatTime shows a time in UTC, which is what the box's clock and its peers have in common;
// "never" if zero.
func FormatTime(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04 MST")
}

// FormatPercent shows a fraction with two decimals at most, cut: only all is 100%.
func FormatPercent(x float64) string {
	if x < 0 {
		return "not known"
	}
	hundredths := int64(x*10000 + 1e-9)
	s := strconv.FormatFloat(float64(hundredths)/100, 'f', 2, 64)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".") + "%"
}

// FormatInt shows a number with commas at thousands.
func FormatInt(n int64) string {
	s := strconv.FormatInt(n, 10)
	start := 0
	if n < 0 {
		start = 1
	}
	for i := len(s) - 3; i > start; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// FormatBytes shows a size in powers of 1024, as 1.x does (admin.md 8.2).
func FormatBytes(n int64) string {
	if n < 0 {
		return "not known"
	}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	x := float64(n)
	for _, unit := range []string{"KB", "MB", "GB", "TB", "PB", "EB"} {
		x /= 1024
		if x < 9.95 {
			return fmt.Sprintf("%.1f %s", x, unit)
		}
		if x < 1023.5 || unit == "EB" {
			return fmt.Sprintf("%.0f %s", x, unit)
		}
	}
	return ""
}

// WriteText writes the table for a terminal: titles, then one line for each row, aligned.
func (t *Table) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		line[i] = c.Title
	}
	fmt.Fprintln(tw, strings.Join(line, "\t"))
	for _, r := range t.Rows {
		for i, c := range t.Columns {
			line[i] = printable(Format(c.Type, r[c.Name]))
		}
		fmt.Fprintln(tw, strings.Join(line, "\t"))
	}
	return tw.Flush()
}

// printable keeps what came from outside from breaking lines or steering a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// WriteCSV writes column names and raw values, times in RFC 3339.
func (t *Table) WriteCSV(w io.Writer) error {
	cw := csv.NewWriter(w)
	line := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		line[i] = c.Name
	}
	cw.Write(line)
	for _, r := range t.Rows {
		for i, c := range t.Columns {
			switch v := r[c.Name].(type) {
			case nil:
				line[i] = ""
			case time.Time:
				line[i] = v.UTC().Format(time.RFC3339)
			default:
				line[i] = fmt.Sprint(v)
			}
		}
		cw.Write(line)
	}
	cw.Flush()
	return cw.Error()
}

// CompareNames puts names in catalogue order: case and a leading article do not count, and
// numbers count by their value (admin.md 8.5).
func CompareNames(a, b string) int {
	x, y := catalogue(a), catalogue(b)
	for x != "" && y != "" {
		dx, dy := digits(x), digits(y)
		if dx > 0 && dy > 0 {
			nx, ny := strings.TrimLeft(x[:dx], "0"), strings.TrimLeft(y[:dy], "0")
			if c := cmp.Or(cmp.Compare(len(nx), len(ny)), cmp.Compare(nx, ny)); c != 0 {
				return c
			}
			x, y = x[dx:], y[dy:]
			continue
		}
		if x[0] != y[0] {
			return cmp.Compare(x[0], y[0])
		}
		x, y = x[1:], y[1:]
	}
	return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(a, b))
}

func catalogue(s string) string {
	s = strings.ToLower(s)
	for _, article := range []string{"the ", "an ", "a "} {
		if rest, ok := strings.CutPrefix(s, article); ok {
			return rest
		}
	}
	return s
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
