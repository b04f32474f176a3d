package journal

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"armarium/daemon/lockss"
)

// ErrNoRecord says that there is no record to update.
var ErrNoRecord = errors.New("no such record")

// Poll is one poll, as the node that called it or as one that votes in it.
type Poll struct {
	Key       string
	AU        lockss.AUID
	Role      string        // "poller" or "voter"
	Peer      lockss.PeerID // the poller
	Started   time.Time
	Ended     time.Time // zero while it is running
	Status    string
	Quorum    int
	Voters    int
	Agreement float64 // 0 to 1; -1 for none

	URLs, Won, Lost, TooClose, NoQuorum int // URLs tallied, and how
	Repairs                             int

	Sentence string          // the result in words
	Detail   json.RawMessage // votes and the like, as the poll keeps them; may be nil
}

// Crawl is one crawl that was tried.
type Crawl struct {
	ID      int64 // given by AddCrawl
	AU      lockss.AUID
	Kind    string
	Started time.Time
	Ended   time.Time // zero while it is running
	Status  int       // result code
	Message string

	Fetched, NotModified, Excluded, Errors int
	Bytes                                  int64

	Failures []CrawlFailure
}

// CrawlFailure is a URL that a crawl did not get, and why.
type CrawlFailure struct {
	URL    string `json:"url"`
	Reason string `json:"reason"`
}

// Repair is one URL that was replaced, or was to be.
type Repair struct {
	AU       lockss.AUID
	URL      string
	Version  int           // number of the new version
	From     lockss.PeerID // "" for the publisher
	Poll     string        // key
	At       time.Time
	Result   string // "verified", "disputed" or "failed"
	Old, New string // checksums, "ALG:HEX" or ""
}

// Action is one entry of the audit trail.
type Action struct {
	At                         time.Time
	User, What, Object, Result string
}

// A Filter chooses records, newest first. Zero fields choose all.
type Filter struct {
	AU     lockss.AUID
	Role   string    // of polls
	Poll   string    // key, of polls and repairs
	User   string    // of actions
	Before time.Time // begun or done before
	Skip   int       // leaves out that many
	Limit  int       // 0: 100; at most 10000
}

// where makes the conditions of a query from those fields of the filter that the table has;
// time is the column that orders it.
func (f Filter) where(time string, columns map[string]string) (string, []any) {
	conds, args := []string{"1"}, []any{}
	for _, c := range []struct{ name, value string }{
		{"au", string(f.AU)}, {"role", f.Role}, {"poll", f.Poll}, {"user", f.User},
	} {
		if column := columns[c.name]; column != "" && c.value != "" {
			conds = append(conds, column+" = ?")
			args = append(args, c.value)
		}
	}
	if !f.Before.IsZero() {
		conds = append(conds, time+" < ?")
		args = append(args, f.Before.UnixMilli())
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	args = append(args, min(limit, 10000), max(f.Skip, 0))
	return fmt.Sprintf(" WHERE %s ORDER BY %s DESC, rowid DESC LIMIT ? OFFSET ?", strings.Join(conds, " AND "), time), args
}

func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// write runs a statement that changes one record at least.
func (j *Journal) write(what, query string, args ...any) (sql.Result, error) {
	res, err := j.db.Exec(query, args...)
	if err != nil {
		return nil, fmt.Errorf("journal: %s: %w", what, err)
	}
	if n, err := res.RowsAffected(); err == nil && n == 0 {
		return nil, fmt.Errorf("journal: %s: %w", what, ErrNoRecord)
	}
	return res, nil
}

// query reads records of one table.
func query[T any](j *Journal, what, text string, args []any, scan func(row func(...any) error) (T, error)) ([]T, error) {
	rows, err := j.db.Query(text, args...)
	if err != nil {
		return nil, fmt.Errorf("journal: %s: %w", what, err)
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		v, err := scan(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("journal: %s: %w", what, err)
		}
		all = append(all, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("journal: %s: %w", what, err)
	}
	return all, nil
}

const pollColumns = `au, peer, started, ended, status, quorum, voters, agreement,
	urls, won, lost, too_close, no_quorum, repairs, sentence, detail, key, role`

func (p Poll) values() []any {
	return []any{
		string(p.AU), string(p.Peer), toMillis(p.Started), toMillis(p.Ended), p.Status, p.Quorum, p.Voters, p.Agreement,
		p.URLs, p.Won, p.Lost, p.TooClose, p.NoQuorum, p.Repairs, p.Sentence, []byte(p.Detail), p.Key, p.Role,
	}
}

func scanPoll(row func(...any) error) (Poll, error) {
	var p Poll
	var started, ended int64
	err := row(&p.AU, &p.Peer, &started, &ended, &p.Status, &p.Quorum, &p.Voters, &p.Agreement,
		&p.URLs, &p.Won, &p.Lost, &p.TooClose, &p.NoQuorum, &p.Repairs, &p.Sentence, (*[]byte)(&p.Detail), &p.Key, &p.Role)
	p.Started, p.Ended = fromMillis(started), fromMillis(ended)
	return p, err
}

// AddPoll records a poll; without Ended it is running. A key occurs once in each role.
func (j *Journal) AddPoll(p Poll) error {
	_, err := j.write("add poll "+p.Key, "INSERT INTO poll ("+pollColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", p.values()...)
	return err
}

// UpdatePoll replaces the record with this key and role; ErrNoRecord when there is none.
func (j *Journal) UpdatePoll(p Poll) error {
	_, err := j.write("update poll "+p.Key, `UPDATE poll SET au = ?, peer = ?, started = ?, ended = ?, status = ?, quorum = ?, voters = ?,
		agreement = ?, urls = ?, won = ?, lost = ?, too_close = ?, no_quorum = ?, repairs = ?, sentence = ?, detail = ?
		WHERE key = ? AND role = ?`, p.values()...)
	return err
}

// Polls lists polls.
func (j *Journal) Polls(f Filter) ([]Poll, error) {
	where, args := f.where("started", map[string]string{"au": "au", "role": "role", "poll": "key"})
	return query(j, "list polls", "SELECT "+pollColumns+" FROM poll"+where, args, scanPoll)
}

// RunningPolls lists the polls that have not ended, oldest first. Right after a start they are
// those that the end of the last run cut short.
func (j *Journal) RunningPolls() ([]Poll, error) {
	return query(j, "list running polls", "SELECT "+pollColumns+" FROM poll WHERE ended = 0 ORDER BY started, rowid", nil, scanPoll)
}

// EndRunning ends all running polls with this status and sentence, and returns them.
func (j *Journal) EndRunning(at time.Time, status, sentence string) ([]Poll, error) {
	return query(j, "end running polls", "UPDATE poll SET ended = ?, status = ?, sentence = ? WHERE ended = 0 RETURNING "+pollColumns,
		[]any{toMillis(at), status, sentence}, scanPoll)
}

const crawlColumns = "au, kind, started, ended, status, message, fetched, not_modified, excluded, errors, bytes, failures"

func (c Crawl) values() ([]any, error) {
	var failures []byte
	if len(c.Failures) > 0 {
		var err error
		if failures, err = json.Marshal(c.Failures); err != nil {
			return nil, err
		}
	}
	return []any{
		string(c.AU), c.Kind, toMillis(c.Started), toMillis(c.Ended), c.Status, c.Message,
		c.Fetched, c.NotModified, c.Excluded, c.Errors, c.Bytes, failures,
	}, nil
}

// AddCrawl records a crawl and returns its ID.
func (j *Journal) AddCrawl(c Crawl) (int64, error) {
	values, err := c.values()
	if err != nil {
		return 0, err
	}
	res, err := j.write("add crawl", "INSERT INTO crawl ("+crawlColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values...)
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}

// UpdateCrawl replaces the record with this ID; ErrNoRecord when there is none.
func (j *Journal) UpdateCrawl(c Crawl) error {
	values, err := c.values()
	if err != nil {
		return err
	}
	_, err = j.write(fmt.Sprint("update crawl ", c.ID), `UPDATE crawl SET au = ?, kind = ?, started = ?, ended = ?, status = ?, message = ?,
		fetched = ?, not_modified = ?, excluded = ?, errors = ?, bytes = ?, failures = ? WHERE id = ?`, append(values, c.ID)...)
	return err
}

// Crawls lists crawls.
func (j *Journal) Crawls(f Filter) ([]Crawl, error) {
	where, args := f.where("started", map[string]string{"au": "au"})
	return query(j, "list crawls", "SELECT "+crawlColumns+", id FROM crawl"+where, args, func(row func(...any) error) (Crawl, error) {
		var c Crawl
		var started, ended int64
		var failures []byte
		err := row(&c.AU, &c.Kind, &started, &ended, &c.Status, &c.Message,
			&c.Fetched, &c.NotModified, &c.Excluded, &c.Errors, &c.Bytes, &failures, &c.ID)
		c.Started, c.Ended = fromMillis(started), fromMillis(ended)
		if err == nil && failures != nil {
			err = json.Unmarshal(failures, &c.Failures)
		}
		return c, err
	})
}

// AddRepair records a repair.
func (j *Journal) AddRepair(r Repair) error {
	_, err := j.write("add repair", "INSERT INTO repair (au, url, version, peer, poll, at, result, old, new) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		string(r.AU), r.URL, r.Version, string(r.From), r.Poll, toMillis(r.At), r.Result, r.Old, r.New)
	return err
}

// Repairs lists repairs.
func (j *Journal) Repairs(f Filter) ([]Repair, error) {
	where, args := f.where("at", map[string]string{"au": "au", "poll": "poll"})
	return query(j, "list repairs", "SELECT au, url, version, peer, poll, at, result, old, new FROM repair"+where, args,
		func(row func(...any) error) (Repair, error) {
			var r Repair
			var at int64
			err := row(&r.AU, &r.URL, &r.Version, &r.From, &r.Poll, &at, &r.Result, &r.Old, &r.New)
			r.At = fromMillis(at)
			return r, err
		})
}

// AddAction records what a user did.
func (j *Journal) AddAction(a Action) error {
	_, err := j.write("add action", "INSERT INTO action (at, user, what, object, result) VALUES (?, ?, ?, ?, ?)",
		toMillis(a.At), a.User, a.What, a.Object, a.Result)
	return err
}

// Actions lists the audit trail.
func (j *Journal) Actions(f Filter) ([]Action, error) {
	where, args := f.where("at", map[string]string{"user": "user"})
	return query(j, "list actions", "SELECT at, user, what, object, result FROM action"+where, args,
		func(row func(...any) error) (Action, error) {
			var a Action
			var at int64
			err := row(&at, &a.User, &a.What, &a.Object, &a.Result)
			a.At = fromMillis(at)
			return a, err
		})
}

// Get returns the value of a key, nil when there is none.
func (j *Journal) Get(key string) ([]byte, error) {
	var value []byte
	err := j.db.QueryRow("SELECT value FROM setting WHERE key = ?", key).Scan(&value)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("journal: get %s: %w", key, err)
	}
	return value, nil
}

// Put sets the value of a key; nil removes it.
func (j *Journal) Put(key string, value []byte) error {
	var err error
	if value == nil {
		_, err = j.db.Exec("DELETE FROM setting WHERE key = ?", key)
	} else {
		_, err = j.db.Exec("INSERT INTO setting (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
	}
	if err != nil {
		return fmt.Errorf("journal: put %s: %w", key, err)
	}
	return nil
}

// Keys lists the keys that begin with prefix, sorted.
func (j *Journal) Keys(prefix string) ([]string, error) {
	return query(j, "list keys", "SELECT key FROM setting WHERE substr(key, 1, length(?1)) = ?1 ORDER BY key", []any{prefix},
		func(row func(...any) error) (key string, err error) {
			err = row(&key)
			return key, err
		})
}
