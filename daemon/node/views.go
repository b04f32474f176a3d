package node

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/crawl"
	"armarium/daemon/journal"
	"armarium/daemon/lockss"
	"armarium/daemon/peer"
	"armarium/daemon/platform"
	"armarium/daemon/poll"
	"armarium/daemon/status"
)

// sources shows the services as rows to the faces.
func (n *Node) sources() status.Sources {
	return status.Sources{
		Health: n.health, Box: n.boxRow, AUs: n.auRows,
		Crawls: n.crawlRows, Crawl: n.crawlRow, Polls: n.pollRows, Poll: n.pollRow, Votes: n.voteRows,
		Peers: n.peerRows, Agree: n.agreementRows, Repairs: n.repairRows, Disks: n.diskRows,
		Titles: n.titleRows, Plugins: n.pluginRows, Actions: n.actionRows, Config: n.configRows,
		URLs: n.urlRows, Version: n.versionRows,
	}
}

func (n *Node) boxRow() status.BoxRow {
	s := n.config()
	var pp poll.Params
	s.Fill(&pp)
	var cp struct {
		Crawling bool `prop:"org.lockss.crawler.enabled" default:"true"`
	}
	n.start.Fill(&cp)
	contact, _ := s.Get("org.lockss.platform.sysadminemail")
	p := n.params
	row := status.BoxRow{Host: p.Host, Version: p.Version, Peer: n.identity, Groups: p.Groups, Contact: contact,
		Started: n.started, Quorum: pp.Quorum, PollEvery: pp.PollInterval, Crawling: cp.Crawling,
		Polling: n.audit != nil && pp.EnablePoller, ConfigFault: n.fault()}
	box, err := n.box.State()
	if errors.Is(err, platform.ErrNoPlatform) {
		return row
	}
	if err != nil {
		row.Sentence = "The box itself does not answer: " + err.Error()
		row.Alarm = true
		return row
	}
	row.Host, row.Version, row.Image = cmp.Or(box.Host, row.Host), cmp.Or(box.Version, row.Version), box.Image
	row.Lock, row.LockNote, row.Seal = box.Lock, box.LockNote, box.Seal
	row.Time, row.Network = box.Time.State, strings.Join(box.Network.Addresses, ", ")
	row.Sentence, row.Alarm, row.Todo = box.Sentence, box.Alarm, box.Todo
	return row
}

func (n *Node) auRows() []status.AURow {
	polling := map[lockss.AUID]bool{}
	for _, p := range n.livePolls() {
		if p.Running {
			polling[p.AU] = true
		}
	}
	counted := n.store.Stale() == 0 // or to count would take a walk
	var rows []status.AURow
	for _, u := range n.units.reg.Units() {
		rows = append(rows, n.auRow(u, polling[u.ID()], counted))
	}
	return rows
}

func (n *Node) auRow(u *au.Unit, polling, counted bool) status.AURow {
	s, e, f := u.State(), u.Entry(), n.history.finding(u.ID())
	r := status.AURow{
		AU: u.ID(), Name: u.Name(), Plugin: e.PluginID, Internal: u.IsRegistry(), Fault: u.Problem(),
		URLs: status.Unknown, Bytes: status.Unknown, Versions: status.Unknown,
		Crawled: s.LastCrawl, CrawlAttempt: s.LastCrawlAttempt, Crawling: u.Crawling(),
		Polled: s.LastTopLevelPoll, PollAttempt: s.LastPollStart, Polling: polling,
		Agreement: s.V3Agreement, HighestAgreement: s.HighestV3Agreement, Damaged: f.damaged, Undecided: f.undecided,
		AgreeingPeers: s.AgreePeersLastPoR,
	}
	if !s.LastCrawlAttempt.IsZero() {
		result := crawl.Status(s.LastCrawlResult)
		if result == crawl.Active && !r.Crawling { // the daemon ended without warning
			result = crawl.Interrupted
		}
		r.CrawlResult, r.CrawlFailed = result.String(), result > crawl.Successful
	}
	if !s.LastPollStart.IsZero() && s.LastPollResult >= 0 {
		r.PollResult, r.NoQuorum = poll.State(s.LastPollResult).String(), poll.State(s.LastPollResult) == poll.EndedNoQuorum
	}
	if p := u.Plugin(); p != nil {
		r.PluginVersion, r.StartURLs = p.Definition().Version(), p.StartURLs()
		r.PublisherDown = p.Flag("pub_down") || p.Flag("pub_never")
		r.Params = map[string]string{}
		for _, d := range p.Definition().Params() {
			if v, ok := e.Params[d.Key]; ok && d.Definitional {
				r.Params[d.Key] = v
			}
		}
	}
	r.Repairers = status.Unknown
	if c := u.Content(); c != nil {
		r.Disk, r.Dir, r.Created = c.Root(), c.Dir(), c.Created()
		r.Repairers = n.peers.WillingRepairers(u.ID(), time.Now())
		if counted {
			if sum, err := c.Summary(); err == nil {
				r.URLs, r.Bytes, r.Versions = sum.URLs, sum.Bytes, sum.Versions
			} else {
				n.log.Warn("collection not counted", "au", u.ID(), "err", err)
			}
		}
	}
	return r
}

func (n *Node) name(id lockss.AUID) string {
	if u, ok := n.units.reg.Unit(id); ok {
		return u.Name()
	}
	return string(id)
}

func filter(q status.Query) journal.Filter {
	return journal.Filter{AU: q.AU, Before: q.Before, Limit: q.Limit}
}

func (n *Node) crawlRows(q status.Query) ([]status.CrawlRow, error) {
	var rows []status.CrawlRow
	for _, p := range n.crawler.Running() {
		if (q.AU != "" && q.AU != p.AU) || (!q.Before.IsZero() && !p.Started.Before(q.Before)) {
			continue
		}
		state := crawl.Active.String()
		if p.Waiting {
			state = "Waiting for hashes to end"
		}
		rows = append(rows, status.CrawlRow{AU: p.AU, Name: n.name(p.AU), Kind: p.Kind, Started: p.Started, Running: true,
			Status: state, Fetched: p.Fetched, NotModified: p.NotModified, Queued: p.Queued, Errors: p.Errors, Bytes: p.Bytes, Current: p.URL})
	}
	list, err := n.journal.Crawls(filter(q))
	for _, c := range list {
		rows = append(rows, n.journalCrawl(c))
	}
	return rows, err
}

func (n *Node) journalCrawl(c journal.Crawl) status.CrawlRow {
	row := status.CrawlRow{ID: c.ID, AU: c.AU, Name: n.name(c.AU), Kind: c.Kind, Started: c.Started, Ended: c.Ended,
		OK: crawl.Status(c.Status) == crawl.Successful, Status: crawl.Status(c.Status).String(), Message: c.Message,
		Fetched: c.Fetched, NotModified: c.NotModified, Excluded: c.Excluded, Errors: c.Errors, Bytes: c.Bytes}
	for _, f := range c.Failures {
		row.Failures = append(row.Failures, status.CrawlFailure(f))
	}
	return row
}

// crawlRow finds a crawl among all, newest first: those that are looked at are young.
func (n *Node) crawlRow(id int64) (status.CrawlRow, error) {
	const page = 100
	for skip := 0; id > 0; skip += page {
		list, err := n.journal.Crawls(journal.Filter{Limit: page, Skip: skip})
		if err != nil {
			return status.CrawlRow{}, err
		}
		for _, c := range list {
			if c.ID == id {
				return n.journalCrawl(c), nil
			}
		}
		if len(list) < page {
			break
		}
	}
	return status.CrawlRow{}, fmt.Errorf("crawl %d: %w", id, status.ErrNotFound)
}

// livePolls are the polls of this run by key. One runs until its result is kept.
func (n *Node) livePolls() map[string]poll.Status {
	live := map[string]poll.Status{}
	if n.audit != nil {
		for _, p := range n.audit.Polls() {
			p.Running = p.Running || n.history.open(p.AU, p.Key)
			live[p.Key] = p
		}
	}
	return live
}

func (n *Node) pollRows(q status.Query) ([]status.PollRow, error) {
	live := n.livePolls()
	var rows []status.PollRow
	for _, p := range live {
		if p.Running && (q.AU == "" || q.AU == p.AU) && (q.Before.IsZero() || p.Started.Before(q.Before)) {
			rows = append(rows, n.runningPoll(p))
		}
	}
	slices.SortFunc(rows, func(a, b status.PollRow) int { return b.Started.Compare(a.Started) })
	f := filter(q)
	f.Role = string(poll.RolePoller)
	list, err := n.journal.Polls(f)
	for _, p := range list {
		if _, ok := live[p.Key]; ok && live[p.Key].Running {
			continue
		}
		rows = append(rows, n.journalPoll(p))
	}
	return rows, err
}

func (n *Node) runningPoll(p poll.Status) status.PollRow {
	row := n.resultRow(p.Result)
	row.Running, row.VoteDeadline, row.Deadline, row.Pending = p.Running, p.VoteDeadline, p.Deadline, p.Pending
	return row
}

func (n *Node) journalPoll(p journal.Poll) status.PollRow {
	var r poll.Result
	if json.Unmarshal(p.Detail, &r) == nil && r.Key != "" {
		return n.resultRow(r)
	}
	return status.PollRow{Key: p.Key, AU: p.AU, Name: n.name(p.AU), Started: p.Started, Ended: p.Ended, Status: p.Status,
		Quorum: p.Quorum, Voters: p.Voters, Agreement: p.Agreement, URLs: p.URLs, Won: p.Won, Lost: p.Lost,
		TooClose: p.TooClose, NoQuorum: p.NoQuorum, Repairs: p.Repairs, Sentence: p.Sentence}
}

func (n *Node) resultRow(r poll.Result) status.PollRow {
	row := status.PollRow{Key: r.Key, AU: r.AU, Name: n.name(r.AU), Variant: string(r.Variant), Started: r.Started, Ended: r.Ended,
		Status: r.Status, Quorum: r.Quorum, Voters: r.Voters, Agreement: r.Agreement, URLs: r.URLs, Won: r.Won, Lost: r.Lost,
		Extra: r.Extra, TooClose: r.TooClose, NoQuorum: r.NoQuorum, Repairs: r.Repairs, Sentence: r.Sentence}
	for _, p := range r.Participants {
		reason := ""
		if p.NAK != "" {
			reason = p.NAK.Text()
		}
		row.Participants = append(row.Participants, status.ParticipantRow{Peer: p.Peer, Status: p.Status, Reason: reason,
			Outer: p.Outer, Invited: p.Invited, Voted: p.Voted, Agreement: p.Agreement, Agree: p.Count.Agree,
			Disagree: p.Count.Disagree, PollerOnly: p.Count.PollerOnly, VoterOnly: p.Count.VoterOnly})
	}
	for _, u := range r.Listed {
		d := status.DamageRow{URL: u.URL, Result: u.Result.String(), Agree: u.Count.Agree + u.Count.Neither,
			Disagree: u.Count.Disagree + u.Count.PollerOnly + u.Count.VoterOnly, Repair: u.Repair, From: u.From, After: u.After}
		for _, v := range u.Votes {
			d.Votes = append(d.Votes, status.URLVote{Peer: v.Peer, Verdict: v.Verdict.String()})
		}
		row.Damage = append(row.Damage, d)
	}
	return row
}

func (n *Node) pollRow(key string) (status.PollRow, error) {
	if p, ok := n.livePolls()[key]; ok {
		return n.runningPoll(p), nil
	}
	list, err := n.journal.Polls(journal.Filter{Poll: key, Role: string(poll.RolePoller)})
	if err != nil {
		return status.PollRow{}, err
	}
	if len(list) == 0 {
		return status.PollRow{}, fmt.Errorf("poll %s: %w", key, status.ErrNotFound)
	}
	return n.journalPoll(list[0]), nil
}

func (n *Node) voteRows(q status.Query) ([]status.VoteRow, error) {
	var rows []status.VoteRow
	live := map[string]bool{}
	if n.audit != nil {
		for _, v := range n.audit.Votes() {
			if (q.AU != "" && q.AU != v.AU) || (!q.Before.IsZero() && !v.Started.Before(q.Before)) {
				continue
			}
			live[v.Key+string(v.Poller)] = true
			reason := ""
			if v.NAK != "" {
				reason = v.NAK.Text()
			}
			rows = append(rows, status.VoteRow{Key: v.Key, AU: v.AU, Name: n.name(v.AU), Poller: v.Poller, Status: v.Status,
				Reason: reason, Running: v.Running, Started: v.Started, Ended: v.Ended, Deadline: v.Deadline, URLs: v.URLs,
				Agreement: v.Hint, Served: len(v.Served), Refused: v.Refused})
		}
	}
	f := filter(q)
	f.Role = string(poll.RoleVoter)
	list, err := n.journal.Polls(f)
	for _, p := range list {
		if !live[p.Key+string(p.Peer)] {
			rows = append(rows, status.VoteRow{Key: p.Key, AU: p.AU, Name: n.name(p.AU), Poller: p.Peer, Status: p.Status,
				Reason: p.Sentence, Started: p.Started, Ended: p.Ended, URLs: p.URLs, Agreement: p.Agreement})
		}
	}
	slices.SortFunc(rows, func(a, b status.VoteRow) int { return b.Started.Compare(a.Started) })
	return rows, err
}

func (n *Node) peerRows() []status.PeerRow {
	known := n.peers.Known()
	wire := map[lockss.PeerID]status.PeerRow{}
	if n.wire != nil {
		for _, t := range n.wire.Stats() {
			state := "not connected"
			switch {
			case t.Channels > 0:
				state = "connected"
			case t.Queued > 0:
				state = fmt.Sprintf("%d messages wait for a connection", t.Queued)
			}
			wire[t.Peer] = status.PeerRow{State: state, Fault: t.LastError}
		}
	}
	configured := n.config().List("org.lockss.id.initialV3PeerList")
	var rows []status.PeerRow
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if id == n.identity {
			continue
		}
		s, w := known[id], wire[id]
		rows = append(rows, status.PeerRow{Peer: id, Configured: slices.Contains(configured, string(id)),
			LastMessage: s.LastMessage, LastInvited: s.LastInvited, LastVoted: s.LastVoted, LastCalled: s.LastCalled,
			Messages: s.Messages, Invitations: s.Invitations, Votes: s.Votes, Polls: s.Polls, Refusals: s.Refusals,
			LastRefusal: s.LastRefusal, Groups: s.Groups, State: w.State, Fault: w.Fault})
	}
	return rows
}

func (n *Node) agreementRows() ([]status.AgreementRow, error) {
	var rows []status.AgreementRow
	for _, u := range n.units.reg.Units() {
		if u.Content() == nil {
			continue
		}
		all, err := n.peers.Agreements(u.ID())
		if err != nil {
			return rows, err
		}
		open := u.State().AccessType == au.OpenAccess
		for _, id := range slices.Sorted(maps.Keys(all)) {
			r := status.AgreementRow{AU: u.ID(), Name: u.Name(), Peer: id, Last: status.None, Highest: status.None, Hint: status.None,
				Repairs: n.peers.MayRepair(u.ID(), id, open)}
			for _, t := range []peer.Type{peer.POR, peer.SymmetricPOR} {
				a, ok := all[id][t]
				if !ok || a.Percent < 0 {
					continue
				}
				if a.Time.After(r.LastAt) {
					r.Last, r.LastAt = float64(a.Percent), a.Time
				}
				if float64(a.Highest) > r.Highest {
					r.Highest, r.HighestAt = float64(a.Highest), a.HighestTime
				}
			}
			if a, ok := all[id][peer.PORHint]; ok && a.Percent >= 0 {
				r.Hint, r.HintAt = float64(a.Percent), a.Time
			}
			rows = append(rows, r)
		}
	}
	return rows, nil
}

func (n *Node) repairRows(q status.Query) ([]status.RepairRow, error) {
	list, err := n.journal.Repairs(filter(q))
	var rows []status.RepairRow
	for _, r := range list {
		rows = append(rows, status.RepairRow{At: r.At, AU: r.AU, Name: n.name(r.AU), URL: r.URL, Version: r.Version, From: r.From,
			Poll: r.Poll, Result: r.Result, Old: r.Old, New: r.New})
	}
	return rows, err
}

func (n *Node) diskRows() []status.DiskRow {
	count := map[string]int{}
	for _, u := range n.store.Units() {
		count[u.Root]++
	}
	var limits Space
	n.config().Fill(&limits)
	var rows []status.DiskRow
	for _, r := range n.store.Roots() {
		row := status.DiskRow{Path: r.Path, State: platform.DiskOK, Total: r.Total, Free: r.Free, Units: count[r.Path]}
		if r.Err != nil {
			row.State, row.Fault = platform.DiskMissing, r.Err.Error()
		} else {
			row.Level = limits.level(r.Free, r.Total)
		}
		rows = append(rows, row)
	}
	box, err := n.box.State()
	if err != nil {
		return rows
	}
	for _, d := range box.Disks {
		i := slices.IndexFunc(rows, func(r status.DiskRow) bool { return r.Path == d.Content() })
		if i < 0 {
			rows = append(rows, status.DiskRow{Path: cmp.Or(d.Mount, d.Device), State: d.State, Device: d.Device, Serial: d.Serial,
				Total: d.Total, Free: d.Free, Note: d.Note})
			continue
		}
		rows[i].Device, rows[i].Serial, rows[i].Note = d.Device, d.Serial, d.Note
		if rows[i].Fault == "" {
			rows[i].State = d.State
		}
	}
	return rows
}

func (n *Node) titleRows() []status.TitleRow {
	n.mu.Lock()
	titles := n.titles
	n.mu.Unlock()
	var rows []status.TitleRow
	for _, t := range titles {
		row := status.TitleRow{Key: t.Key, Name: t.Name, Journal: t.JournalName(), Plugin: t.PluginID, Params: t.Params}
		if def, ok := n.shelf.definition(t.PluginID); !ok {
			row.Problem = n.shelf.absent(t.PluginID)
		} else if conf, _, err := def.Configuration(t.Params); err != nil {
			row.Problem = err.Error()
		} else {
			row.AU = def.AUID(conf)
			_, row.Added = n.units.reg.Unit(row.AU)
			if err := def.MayCollect(); err != nil {
				row.Problem = err.Error()
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// pluginRows lists the loaded plugins, then the archives that were refused.
func (n *Node) pluginRows() []status.PluginRow {
	uses := map[string]int{}
	for _, u := range n.units.reg.Units() {
		uses[u.Entry().PluginID]++
	}
	loaded, refused := n.shelf.all()
	var rows []status.PluginRow
	for _, id := range slices.Sorted(maps.Keys(loaded)) {
		l := loaded[id]
		rows = append(rows, status.PluginRow{ID: id, Name: l.def.Name(), Version: l.def.Version(), Origin: l.jar, Signer: l.signer,
			AUs: uses[id], Fault: strings.Join(l.def.Unsupported(), "; ")})
	}
	for _, url := range slices.Sorted(maps.Keys(refused)) {
		rows = append(rows, status.PluginRow{Name: path.Base(url), Origin: url, Fault: "refused: " + refused[url]})
	}
	return rows
}

func (n *Node) actionRows(q status.Query) ([]status.ActionRow, error) {
	list, err := n.journal.Actions(filter(q))
	var rows []status.ActionRow
	for _, a := range list {
		rows = append(rows, status.ActionRow(a))
	}
	return rows, err
}

// secret parameters are shown without their value: passwords, and name and password of a
// collection at its publisher.
func secret(name string) bool {
	name = strings.ToLower(name)
	return strings.Contains(name, "password") || strings.HasSuffix(name, ".user_pass")
}

func (n *Node) configRows() []status.ConfigRow {
	s := n.config()
	names := known()
	notes := map[string]string{}
	for _, name := range s.Unknown(names, passed...) {
		notes[name] = "unknown parameter: nothing reads it"
	}
	for _, name := range waiting(n.start, s) {
		v, ok := n.start.Get(name)
		if !ok {
			v = names[name]
		}
		if secret(name) {
			v = "another value"
		}
		notes[name] = fmt.Sprintf("takes effect at the next start; until then %q", v)
	}
	for _, p := range problems(s) {
		notes[p.Name] = p.Msg
	}
	for _, name := range s.Names() {
		if _, ok := names[name]; !ok {
			names[name] = ""
		}
	}
	var rows []status.ConfigRow
	for _, name := range slices.Sorted(maps.Keys(names)) {
		row := status.ConfigRow{Name: name, Value: names[name], Origin: "default", Note: notes[name]}
		if v, ok := s.Get(name); ok {
			row.Value, row.Origin = v, s.Origin(name)
		}
		if secret(name) && row.Value != "" {
			row.Value = "(not shown)"
		}
		rows = append(rows, row)
	}
	return rows
}

func (n *Node) urlRows(id lockss.AUID, after string, limit int) ([]status.URLRow, error) {
	u, ok := n.units.reg.Unit(id)
	if !ok {
		return nil, fmt.Errorf("%s: %w", id, status.ErrNotFound)
	}
	if u.Content() == nil {
		return nil, nil
	}
	items, err := u.Content().List(after, limit)
	rows := make([]status.URLRow, len(items))
	for i, it := range items {
		rows[i] = status.URLRow(it)
	}
	return rows, err
}

func (n *Node) versionRows(id lockss.AUID, url string) ([]status.VersionRow, error) {
	u, ok := n.units.reg.Unit(id)
	if !ok || u.Content() == nil {
		return nil, fmt.Errorf("%s: %w", id, status.ErrNotFound)
	}
	vs, err := u.Content().Versions(url, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", status.ErrNotFound, err)
	}
	var rows []status.VersionRow
	for _, v := range vs {
		row := status.VersionRow{URL: v.URL, Version: v.Number, Current: v.Current, Size: v.Size, Type: v.Props["x-lockss-content-type"],
			Collected: millis(v.Props["x_lockss-server-date"]), Checksum: v.Props["x-lockss-checksum"],
			From: lockss.PeerID(v.Props["x-lockss-repaired-from"]), Props: v.Props}
		if v.BodyErr != nil {
			row.Fault = v.BodyErr.Error()
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// millis reads a time in ms since 1970; zero when it is none.
func millis(text string) time.Time {
	var ms int64
	if _, err := fmt.Sscanf(text, "%d", &ms); err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
