package web

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"armarium/daemon/account"
	"armarium/daemon/lockss"
	"armarium/daemon/serve"
	"armarium/daemon/status"
)

func (s *site) home(*http.Request, *account.Identity) (view, error) {
	sum := s.Sources.Summary(time.Now())
	return view{Template: "home", Title: "Overview", Nav: "home", Busy: sum.Busy, Data: sum}, nil
}

// A listing is a table on a page, with the links that page through it.
type listing struct {
	Table *status.Table
	Cols  []status.Column // shown
	Next  string          // link to the following rows, or ""
	First string          // link back to the first rows, or ""
	Empty string          // said when there are no rows
	Intro string
	AU    *status.AURow // the only collection listed, if it is one
}

// shown picks columns of a table by name, all if none is given.
func shown(t *status.Table, names ...string) []status.Column {
	if len(names) == 0 {
		return t.Columns
	}
	var cols []status.Column
	for _, n := range names {
		if i := slices.IndexFunc(t.Columns, func(c status.Column) bool { return c.Name == n }); i >= 0 {
			cols = append(cols, t.Columns[i])
		}
	}
	return cols
}

// history makes a listing of a table that goes back in time by its column at.
func (s *site) history(r *http.Request, name, at string, cols ...string) (*listing, error) {
	p := status.Params{AU: lockss.AUID(r.FormValue("au")), Limit: rows}
	if text := r.FormValue("before"); text != "" {
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return nil, errNoPage
		}
		p.Before = t
	}
	t, err := s.Sources.Table(name, p)
	if err != nil {
		return nil, err
	}
	l := &listing{Table: t, Cols: shown(t, cols...)}
	link := func(before string) string {
		q := url.Values{}
		if p.AU != "" {
			q.Set("au", string(p.AU))
		}
		if before != "" {
			q.Set("before", before)
		}
		return r.URL.Path + "?" + q.Encode()
	}
	if len(t.Rows) >= rows {
		if last, ok := t.Rows[len(t.Rows)-1][at].(time.Time); ok {
			l.Next = link(last.UTC().Format(time.RFC3339Nano))
		}
	}
	if !p.Before.IsZero() {
		l.First = link("")
	}
	if p.AU != "" {
		if row, err := s.Sources.FindAU(p.AU); err == nil {
			l.AU = &row
		}
	}
	return l, nil
}

// running tells whether a row of a table says so.
func running(t *status.Table) bool {
	return slices.ContainsFunc(t.Rows, func(r status.Row) bool { return r["running"] == true })
}

// list serves a table as it is.
func (s *site) list(name, nav string) func(*http.Request, *account.Identity) (view, error) {
	return func(r *http.Request, _ *account.Identity) (view, error) {
		limit := status.MaxLimit
		if name == "actions" {
			l, err := s.history(r, name, "at")
			if err != nil {
				return view{}, err
			}
			l.Empty = "Nothing was changed through the pages or the API yet."
			return view{Template: "list", Title: l.Table.Title, Nav: nav, Data: l}, nil
		}
		t, err := s.Sources.Table(name, status.Params{Limit: limit})
		if err != nil {
			return view{}, err
		}
		l := &listing{Table: t, Cols: t.Columns, Empty: "There is nothing to show yet."}
		return view{Template: "list", Title: t.Title, Nav: nav, Data: l}, nil
	}
}

func (s *site) collections(*http.Request, *account.Identity) (view, error) {
	t, err := s.Sources.Table("aus", status.Params{Limit: status.MaxLimit})
	if err != nil {
		return view{}, err
	}
	busy := slices.ContainsFunc(t.Rows, func(r status.Row) bool { return r["state"] == "Crawling" || r["state"] == "Polling" })
	// Plugin registries come last: they are the node's own business.
	slices.SortStableFunc(t.Rows, func(a, b status.Row) int {
		return cmp.Compare(rank(a["internal"]), rank(b["internal"]))
	})
	l := &listing{Table: t, Cols: shown(t, "au", "state", "agreement", "urls", "bytes", "crawled", "polled"),
		Empty: "There is no collection yet. Add one from the title list."}
	return view{Template: "list", Title: t.Title, Nav: "collections", Busy: busy, Data: l}, nil
}

func rank(internal any) int {
	if internal == true {
		return 1
	}
	return 0
}

// collectionPage is all about one collection.
type collectionPage struct {
	AU      status.AURow
	Peers   []status.AgreementRow
	Polls   *listing
	Crawls  *listing
	Repairs *listing
}

// latest is how many entries of a history the page of a collection shows.
const latest = 10

func (s *site) collection(r *http.Request, _ *account.Identity) (view, error) {
	row, err := s.Sources.FindAU(lockss.AUID(r.FormValue("id")))
	if err != nil {
		return view{}, err
	}
	pg := collectionPage{AU: row}
	p := status.Params{AU: row.AU, Limit: latest}
	part := func(name string, cols ...string) (*listing, error) {
		t, err := s.Sources.Table(name, p)
		if err != nil {
			return nil, err
		}
		l := &listing{Table: t, Cols: shown(t, cols...), Empty: "None yet."}
		if len(t.Rows) >= latest {
			l.Next = "/" + name + "?" + url.Values{"au": {string(row.AU)}}.Encode()
		}
		return l, nil
	}
	if pg.Polls, err = part("polls", "key", "started", "ended", "status", "voters", "agreement", "repairs"); err != nil {
		return view{}, err
	}
	if pg.Crawls, err = part("crawls", "id", "kind", "started", "ended", "status", "fetched", "errors"); err != nil {
		return view{}, err
	}
	if pg.Repairs, err = part("repairs", "at", "url", "result", "from", "poll"); err != nil {
		return view{}, err
	}
	if s.Sources.Agree != nil {
		all, err := s.Sources.Agree()
		if err != nil {
			return view{}, err
		}
		for _, a := range all {
			if a.AU == row.AU {
				pg.Peers = append(pg.Peers, a)
			}
		}
	}
	return view{Template: "collection", Title: row.Name, Nav: "collections", Busy: row.Crawling || row.Polling, Data: pg}, nil
}

func (s *site) urls(r *http.Request, _ *account.Identity) (view, error) {
	row, err := s.Sources.FindAU(lockss.AUID(r.FormValue("id")))
	if err != nil {
		return view{}, err
	}
	t, err := s.Sources.Table("urls", status.Params{Key: string(row.AU), After: r.FormValue("after"), Limit: rows})
	if err != nil {
		return view{}, err
	}
	l := &listing{Table: t, Cols: shown(t, "url", "size", "versions", "checksum"), AU: &row, Empty: "Nothing is preserved here yet."}
	if t.Next != "" {
		l.Next = "/urls?" + url.Values{"id": {string(row.AU)}, "after": {t.Next}}.Encode()
	}
	if r.FormValue("after") != "" {
		l.First = "/urls?" + url.Values{"id": {string(row.AU)}}.Encode()
	}
	for _, u := range t.Rows {
		u["au"] = row.AU
	}
	return view{Template: "list", Title: "URLs of " + row.Name, Nav: "collections", Data: l}, nil
}

// urlPage is all about one URL.
type urlPage struct {
	AU       status.AURow
	URL      string
	Versions []status.VersionRow // newest first
	Chosen   status.VersionRow   // whose properties are shown
	Viewable bool
}

func (s *site) url(r *http.Request, id *account.Identity) (view, error) {
	row, err := s.Sources.FindAU(lockss.AUID(r.FormValue("id")))
	if err != nil {
		return view{}, err
	}
	if s.Sources.Version == nil {
		return view{}, errNoPage
	}
	pg := urlPage{AU: row, URL: r.FormValue("url")}
	if pg.Versions, err = s.Sources.Version(row.AU, pg.URL); err != nil {
		return view{}, err
	}
	if len(pg.Versions) == 0 {
		return view{}, errNoPage
	}
	pg.Chosen = pg.Versions[0]
	if text := r.FormValue("version"); text != "" {
		i := slices.IndexFunc(pg.Versions, func(v status.VersionRow) bool { return strconv.Itoa(v.Version) == text })
		if i < 0 {
			return view{}, fmt.Errorf("version %s: %w", text, status.ErrNotFound)
		}
		pg.Chosen = pg.Versions[i]
	}
	pg.Viewable = serve.Viewable(pg.Chosen.Type) && id.User.Has(account.RoleAccessContent)
	return view{Template: "url", Title: pg.URL, Nav: "collections", Data: pg}, nil
}

// content sends the bytes of a version.
func (s *site) content(w http.ResponseWriter, r *http.Request) {
	id := s.identify(w, r)
	if id == nil {
		return
	}
	if !id.User.Has(account.RoleAccessContent) {
		s.fail(w, r, id, errRole)
		return
	}
	number := 0
	if text := r.FormValue("version"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			s.fail(w, r, id, errNoPage)
			return
		}
		number = n
	}
	v, err := s.Content(lockss.AUID(r.FormValue("id")), r.FormValue("url"), number)
	if err != nil {
		s.fail(w, r, id, err)
		return
	}
	if v.BodyErr != nil {
		s.fail(w, r, id, v.BodyErr)
		return
	}
	if err := serve.View(w, r, v, r.FormValue("save") == "1"); err != nil {
		s.log.Warn("content not sent whole", "url", v.URL, "err", err)
	}
}

func (s *site) polls(r *http.Request, _ *account.Identity) (view, error) {
	l, err := s.history(r, "polls", "started", "key", "au", "started", "ended", "status", "voters", "agreement", "lost", "repairs")
	if err != nil {
		return view{}, err
	}
	l.Intro = "In a poll this node asks others to compare their copies of a collection with its own, URL by URL."
	l.Empty = "No poll has been called yet."
	return view{Template: "list", Title: "Polls", Nav: "polls", Busy: running(l.Table), Data: l}, nil
}

// pollPage is all about one poll.
type pollPage struct {
	status.PollRow
	Voted  *listing
	Damage *listing
	Bar    []segment
}

// A segment is a part of a bar, in percent of its width.
type segment struct {
	Class, Label string
	N            int
	X, Width     float64
}

// bar makes the segments of a bar from counts.
func bar(parts ...segment) []segment {
	total := 0
	for _, p := range parts {
		total += p.N
	}
	var b []segment
	x := 0.0
	for _, p := range parts {
		if p.N <= 0 {
			continue
		}
		p.X, p.Width = x, float64(p.N)/float64(total)*100
		x += p.Width
		b = append(b, p)
	}
	return b
}

func (s *site) poll(r *http.Request, _ *account.Identity) (view, error) {
	if s.Sources.Poll == nil {
		return view{}, errNoPage
	}
	key := r.FormValue("key")
	row, err := s.Sources.Poll(key)
	if err != nil {
		return view{}, err
	}
	pg := pollPage{PollRow: row, Bar: bar(
		segment{Class: "good", Label: "agree", N: row.Won},
		segment{Class: "bad", Label: "lost", N: row.Lost},
		segment{Class: "odd", Label: "only here", N: row.Extra},
		segment{Class: "look", Label: "too close", N: row.TooClose},
		segment{Class: "idle", Label: "too few votes", N: row.NoQuorum})}
	for name, to := range map[string]**listing{"participants": &pg.Voted, "damage": &pg.Damage} {
		t, err := s.Sources.Table(name, status.Params{Key: key})
		if err != nil {
			return view{}, err
		}
		for _, u := range t.Rows {
			u["au"] = row.AU
		}
		*to = &listing{Table: t, Cols: t.Columns}
	}
	pg.Voted.Cols = shown(pg.Voted.Table, "peer", "status", "reason", "voted", "agreement", "agree", "disagree", "pollerOnly", "voterOnly")
	pg.Voted.Empty = "No peer has been invited yet."
	pg.Damage.Empty = "Every URL that was decided is in order."
	if row.URLs == 0 {
		pg.Damage.Empty = "No URL has been tallied."
	}
	return view{Template: "poll", Title: "Poll of " + row.Name, Nav: "polls", Busy: row.Running, Data: pg}, nil
}

func (s *site) votes(r *http.Request, _ *account.Identity) (view, error) {
	l, err := s.history(r, "votes", "started", "au", "poller", "started", "status", "reason", "urls", "agreement", "served")
	if err != nil {
		return view{}, err
	}
	l.Intro = "The other nodes call polls too, and this node votes in them."
	l.Empty = "No other node has asked for a vote yet."
	return view{Template: "list", Title: "Votes in polls of others", Nav: "polls", Busy: running(l.Table), Data: l}, nil
}

func (s *site) crawls(r *http.Request, _ *account.Identity) (view, error) {
	l, err := s.history(r, "crawls", "started", "id", "au", "kind", "started", "ended", "status", "fetched", "notModified", "errors", "queued")
	if err != nil {
		return view{}, err
	}
	l.Intro = "In a crawl this node collects what the publisher permits it to keep."
	l.Empty = "Nothing has been crawled yet."
	return view{Template: "list", Title: "Crawls", Nav: "crawls", Busy: running(l.Table), Data: l}, nil
}

// crawlPage is all about one crawl.
type crawlPage struct {
	status.CrawlRow
	Failed *listing
}

func (s *site) crawl(r *http.Request, _ *account.Identity) (view, error) {
	id, err := strconv.ParseInt(r.FormValue("id"), 10, 64)
	if err != nil || s.Sources.Crawl == nil {
		return view{}, errNoPage
	}
	row, err := s.Sources.Crawl(id)
	if err != nil {
		return view{}, err
	}
	t, err := s.Sources.Table("failures", status.Params{Key: r.FormValue("id")})
	if err != nil {
		return view{}, err
	}
	pg := crawlPage{CrawlRow: row, Failed: &listing{Table: t, Cols: t.Columns, Empty: "Every URL that was asked for could be fetched."}}
	return view{Template: "crawl", Title: "Crawl of " + row.Name, Nav: "crawls", Busy: row.Running, Data: pg}, nil
}

func (s *site) repairs(r *http.Request, _ *account.Identity) (view, error) {
	l, err := s.history(r, "repairs", "at", "at", "au", "url", "result", "reason", "from", "poll", "old", "new")
	if err != nil {
		return view{}, err
	}
	l.Intro = "A copy that loses a poll is fetched again, from the publisher or from a node that agrees with the others. The poll then looks at the new copy; the old one is kept."
	l.Empty = "Nothing has been repaired yet."
	return view{Template: "list", Title: "Repairs", Nav: "repairs", Data: l}, nil
}

// peersPage shows peers, and agreement as a table of collections by peers.
type peersPage struct {
	Self   lockss.PeerID
	Peers  *listing
	Heads  []lockss.PeerID
	Matrix []matrixRow
}

type matrixRow struct {
	AU    lockss.AUID
	Name  string
	Cells []status.AgreementRow // one for each head; Last is None where nothing was measured
}

// maxPeers is how many peers a page lists; the API has all.
const maxPeers = 500

// foremost are the peers that a page lists: those of the configuration, then those that we
// heard of last. Strangers may introduce themselves by the thousand.
func foremost(peers []status.Row) []status.Row {
	slices.SortStableFunc(peers, func(a, b status.Row) int {
		return cmp.Or(cmp.Compare(rank(b["configured"]), rank(a["configured"])), last(b).Compare(last(a)))
	})
	return peers[:min(len(peers), maxPeers)]
}

// last is when a peer was last heard of.
func last(r status.Row) time.Time {
	t, _ := r["lastMessage"].(time.Time)
	return t
}

// maxHeads is how many peers fit on a page side by side.
const maxHeads = 40

func (s *site) peers(*http.Request, *account.Identity) (view, error) {
	t, err := s.Sources.Table("peers", status.Params{Limit: status.MaxLimit})
	if err != nil {
		return view{}, err
	}
	t.Rows = foremost(t.Rows)
	pg := peersPage{Peers: &listing{Table: t, Cols: shown(t, "peer", "state", "lastMessage", "lastVoted", "invitations", "votes", "refusals", "lastRefusal", "fault"),
		Empty: "No other node is known. The configuration of the network should name some."}}
	if s.Sources.Box != nil {
		pg.Self = s.Sources.Box().Peer
	}
	var all []status.AgreementRow
	if s.Sources.Agree != nil {
		if all, err = s.Sources.Agree(); err != nil {
			return view{}, err
		}
	}
	pg.Heads, pg.Matrix = matrix(all)
	return view{Template: "peers", Title: "Peers", Nav: "peers", Data: pg}, nil
}

// matrix puts agreements into rows of collections and columns of peers.
func matrix(all []status.AgreementRow) ([]lockss.PeerID, []matrixRow) {
	var heads []lockss.PeerID
	for _, a := range all {
		heads = append(heads, a.Peer)
	}
	slices.Sort(heads)
	heads = slices.Compact(heads)
	heads = heads[:min(len(heads), maxHeads)]
	rows := map[lockss.AUID]*matrixRow{}
	var list []*matrixRow
	for _, a := range all {
		r := rows[a.AU]
		if r == nil {
			r = &matrixRow{AU: a.AU, Name: a.Name, Cells: make([]status.AgreementRow, len(heads))}
			for i := range r.Cells {
				r.Cells[i] = status.AgreementRow{Last: status.None, Highest: status.None, Hint: status.None}
			}
			rows[a.AU] = r
			list = append(list, r)
		}
		if i, ok := slices.BinarySearch(heads, a.Peer); ok {
			r.Cells[i] = a
		}
	}
	slices.SortStableFunc(list, func(a, b *matrixRow) int { return status.CompareNames(a.Name, b.Name) })
	out := make([]matrixRow, len(list))
	for i, r := range list {
		out[i] = *r
	}
	return heads, out
}

// disksPage shows disks and the box that they are in.
type disksPage struct {
	Disks []diskView
	Self  status.BoxRow
}

type diskView struct {
	status.DiskRow
	Bar  []segment
	Used int // percent
}

func (s *site) disks(*http.Request, *account.Identity) (view, error) {
	var pg disksPage
	if s.Sources.Box != nil {
		pg.Self = s.Sources.Box()
	}
	if s.Sources.Disks != nil {
		for _, d := range s.Sources.Disks() {
			v := diskView{DiskRow: d}
			if d.Total > 0 && d.Free <= d.Total {
				v.Used = int(float64(d.Total-d.Free) / float64(d.Total) * 100)
				class := map[string]string{status.DiskLow: "look", status.DiskFull: "bad"}[d.Level]
				v.Bar = bar(segment{Class: cmp.Or(class, "good"), N: v.Used}, segment{Class: "idle", N: 100 - v.Used})
			}
			pg.Disks = append(pg.Disks, v)
		}
	}
	return view{Template: "disks", Title: "Disks and box", Nav: "disks", Data: pg}, nil
}

// titlesPage shows what can be added.
type titlesPage struct {
	Titles []status.TitleRow
	Disks  []status.DiskRow // to choose from, when there are several
	Find   string
	More   int // titles that match and are not shown
	All    int
}

// maxTitles is how many titles one page shows; a long list is searched.
const maxTitles = 200

func (s *site) titles(r *http.Request, _ *account.Identity) (view, error) {
	pg := titlesPage{Find: r.FormValue("find")}
	var all []status.TitleRow
	if s.Sources.Titles != nil {
		all = slices.Clone(s.Sources.Titles())
	}
	pg.All = len(all)
	slices.SortStableFunc(all, func(a, b status.TitleRow) int { return status.CompareNames(a.Name, b.Name) })
	for _, t := range all {
		if !matches(t, pg.Find) {
			continue
		}
		if len(pg.Titles) < maxTitles {
			pg.Titles = append(pg.Titles, t)
		} else {
			pg.More++
		}
	}
	if s.Sources.Disks != nil {
		for _, d := range s.Sources.Disks() {
			if d.State == status.DiskOK && d.Fault == "" && d.Level != status.DiskFull {
				pg.Disks = append(pg.Disks, d)
			}
		}
		// The disk with most free space is proposed (admin.md 7.1).
		slices.SortStableFunc(pg.Disks, func(a, b status.DiskRow) int { return cmp.Compare(b.Free, a.Free) })
	}
	return view{Template: "titles", Title: "Titles", Nav: "titles", Data: pg}, nil
}

func (s *site) askCrawl(ctx context.Context, r *http.Request) (object, next string, err error) {
	id, next, err := s.chosen(r, "crawl")
	if err == nil {
		err = s.Actions.Crawl(ctx, id)
	}
	return string(id), next, err
}

func (s *site) askPoll(ctx context.Context, r *http.Request) (object, next string, err error) {
	id, next, err := s.chosen(r, "poll")
	if err == nil {
		err = s.Actions.Poll(ctx, id)
	}
	return string(id), next, err
}

// chosen is the collection that a form names, and its page with a word on what was done.
func (s *site) chosen(r *http.Request, what string) (lockss.AUID, string, error) {
	id := lockss.AUID(r.PostFormValue("id"))
	_, err := s.Sources.FindAU(id)
	return id, collectionLink(id, what), err
}

func collectionLink(id lockss.AUID, done string) string {
	return "/collection?" + url.Values{"id": {string(id)}, "done": {done}}.Encode()
}

func (s *site) add(ctx context.Context, r *http.Request) (object, next string, err error) {
	req := status.AddRequest{Title: r.PostFormValue("title"), Disk: r.PostFormValue("disk")}
	if err := req.Check(); err != nil {
		return req.Title, "", err
	}
	id, err := s.Actions.AddAU(ctx, req)
	return cmp.Or(string(id), req.Title), collectionLink(id, "add"), err
}
