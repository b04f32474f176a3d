package poll

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
	"armarium/daemon/peer"
)

const testAU lockss.AUID = "org|example|press|ExamplePressPlugin&base_url~http%3A%2F%2Fpress%2Eexample%2F"

// network is a network in memory. Messages are encoded and decoded, and keep their order on
// each link.
type network struct {
	t     testing.TB
	ctx   context.Context
	mu    sync.Mutex
	nodes map[lockss.PeerID]*testNode
	links map[[2]lockss.PeerID]chan *lcap.Message
	// pass decides what arrives: the messages returned, nothing to lose it. nil: all as sent.
	pass func(from, to lockss.PeerID, m *lcap.Message) []*lcap.Message
	log  []sentMessage
}

type sentMessage struct {
	from, to lockss.PeerID
	m        *lcap.Message
}

// testNode is one node: every seam of its auditor.
type testNode struct {
	net  *network
	id   lockss.PeerID
	aud  *Auditor
	lib  *library
	done chan error

	mu       sync.Mutex
	unit     Unit
	held     bool
	files    map[string][]byte
	results  []Result
	repairs  []RepairRecord
	ends     []PollEnd
	hashErr  error
	estimate time.Duration
	refetch  func(url string) ([]byte, error) // the publisher; nil: down
	storing  func()                           // called before a copy is stored; nil: nothing
}

func (n *testNode) ReadState(name string) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if b, ok := n.files[name]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}

func (n *testNode) WriteState(name string, b []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.files[name] = slices.Clone(b)
	return nil
}

func (n *testNode) Send(to lockss.PeerID, m *lcap.Message, expires time.Time, retries int, interval time.Duration) {
	b, err := lcap.Append(nil, m)
	if err != nil {
		n.net.t.Errorf("%s sends what cannot be encoded: %v", n.id, err)
		return
	}
	d, err := lcap.Decode(b)
	if err != nil {
		n.net.t.Errorf("%s sends what cannot be decoded: %v", n.id, err)
		return
	}
	n.net.deliver(n.id, to, d)
}

func (w *network) deliver(from, to lockss.PeerID, m *lcap.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, sentMessage{from, to, m})
	ms := []*lcap.Message{m}
	if w.pass != nil {
		ms = w.pass(from, to, m)
	}
	n := w.nodes[to]
	if n == nil {
		return
	}
	k := [2]lockss.PeerID{from, to}
	if w.links[k] == nil {
		c := make(chan *lcap.Message, 10000)
		w.links[k] = c
		go func() {
			for {
				select {
				case <-w.ctx.Done():
					return
				case m := <-c:
					time.Sleep(10 * time.Millisecond)
					n.aud.Receive(from, m)
				}
			}
		}()
	}
	for _, m := range ms {
		w.links[k] <- m
	}
}

func (n *testNode) Hash(ctx context.Context, r HashRequest, emit func(lcap.HashedBlock) error) error {
	n.mu.Lock()
	err := n.hashErr
	n.mu.Unlock()
	if err != nil {
		return err
	}
	if d := time.Until(r.Start); d > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
		}
	}
	return n.lib.hash(ctx, r, emit)
}

func (n *testNode) Estimate(lockss.AUID) time.Duration { return n.estimate }

func (n *testNode) Reserve(_ lockss.AUID, start, deadline time.Time, d time.Duration) error {
	if deadline.Sub(start) < d {
		return ErrNoTime
	}
	return nil
}

func (n *testNode) Ready() bool { return true }

func (n *testNode) AUs() []lockss.AUID { return []lockss.AUID{testAU} }

func (n *testNode) Unit(au lockss.AUID) (Unit, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.unit, n.held && au == testAU
}

func (n *testNode) PollStarted(_ lockss.AUID, at time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unit.LastAttempt = at
	return nil
}

func (n *testNode) PollEnded(_ lockss.AUID, e PollEnd) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ends = append(n.ends, e)
	n.unit.LastPollResult = int(e.Status)
	if !e.LastPoll.IsZero() {
		n.unit.LastPoll = e.LastPoll
	}
	return nil
}

func (n *testNode) Repair(_ context.Context, _ lockss.AUID, url string) (map[string]string, []byte, error) {
	d, ok := n.lib.current(url)
	if !ok {
		return nil, nil, errNotHeld
	}
	return d.props, d.data, nil
}

func (n *testNode) Store(_ context.Context, _ lockss.AUID, url string, props map[string]string, data []byte) error {
	if n.storing != nil {
		n.storing()
	}
	n.lib.put(url, data, props)
	return nil
}

func (n *testNode) Refetch(_ context.Context, _ lockss.AUID, url string) error {
	data, err := n.refetch(url)
	if err == nil {
		n.lib.put(url, data, map[string]string{"content-type": "text/plain"})
	}
	return err
}

func (n *testNode) Done(r Result) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.results = append(n.results, r)
	return nil
}

func (n *testNode) Repaired(r RepairRecord) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.repairs = append(n.repairs, r)
	return nil
}

// kept returns what the journal got.
func (n *testNode) kept() []Result {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.results)
}

func testID(i int) lockss.PeerID { return lockss.PeerID(fmt.Sprintf("TCP:[192.0.2.%d]:9729", i)) }

func testBodies() map[string]string {
	m := map[string]string{}
	for i := range 20 {
		m[fmt.Sprintf("http://press.example/v1/page%02d.html", i)] = fmt.Sprintf("this is page %d", i)
	}
	return m
}

// pages of testBodies.
func page(i int) string { return fmt.Sprintf("http://press.example/v1/page%02d.html", i) }

// newNetwork starts n nodes that all hold the same, inside a synctest bubble. Every node knows
// all others and has heard of them.
func newNetwork(t testing.TB, n int, change func(*Params)) (w *network, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	w = &network{t: t, ctx: ctx, nodes: map[lockss.PeerID]*testNode{}, links: map[[2]lockss.PeerID]chan *lcap.Message{}}
	for i := 1; i <= n; i++ {
		w.start(i, n, change)
	}
	return w, func() {
		cancel()
		for _, x := range w.nodes {
			<-x.done
		}
		synctest.Wait()
	}
}

func (w *network) start(i, n int, change func(*Params)) {
	t := w.t
	x := &testNode{net: w, id: testID(i), lib: newLibrary(testBodies()), done: make(chan error, 1), held: true, files: map[string][]byte{},
		estimate: time.Second,
		unit: Unit{AU: testAU, Name: "Example Volume", PollVersion: "3", Crawled: true, Created: time.Now(), LastPollResult: -1, Agreement: -1, AgreeingPeers: -1,
			LastAttempt: time.Now().AddDate(0, 0, -30), LastPoll: time.Now()}}
	pp := peer.Params{Groups: []string{lcap.NoGroup}, Discovery: true, WrongGroupRetryTime: 28 * 24 * time.Hour,
		WeightAgeCurve: "[4d,1.0],[20d,0.1],[40d,0.01]", WeightAtRisk: 1, WeightSafety: 0.5, NoAUResetCurve: "[1w,2d],[1w,7d]",
		NominationAgeCurve: "[10d,1.0],[30d,0.1],[40d,0.01]", MinNominations: 1, MaxNominations: 5, AllowRepairs: true,
		MinAgreementForRepairs: 0.5, MinAgreement: 0.5, RepairerLiveness: 14 * 24 * time.Hour, UpdatesBeforeStoring: 100}
	for j := 1; j <= n; j++ {
		pp.InitialPeers = append(pp.InitialPeers, string(testID(j)))
	}
	peers, err := peer.New(peer.Config{Local: x.id, Files: func(lockss.AUID) (peer.Files, error) { return x, nil }, Params: pp})
	if err != nil {
		t.Fatal(err)
	}
	p := testParams()
	p.Quorum, p.RepairFromCacheShare = 3, 1
	if change != nil {
		change(&p)
	}
	x.aud, err = New(Config{Local: x.id, Peers: peers, Network: x, Hasher: x, Units: x, Copies: x, Journal: x,
		Random: rand.New(rand.NewPCG(uint64(i), 7)), Params: p})
	if err != nil {
		t.Fatal(err)
	}
	w.nodes[x.id] = x
	go func() { x.done <- x.aud.Run(w.ctx) }()
	synctest.Wait()
}

func (w *network) node(i int) *testNode { return w.nodes[testID(i)] }

// poll calls a poll at node i and waits until it has ended.
func (w *network) poll(i int) Status {
	w.t.Helper()
	n := w.node(i)
	if err := n.aud.Call(testAU); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
	started := time.Now()
	for {
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if ps := n.aud.Polls(); len(ps) > 0 && !ps[0].Running && !ps[0].Started.Before(started) {
			w.t.Log(ps[0].Sentence)
			return ps[0]
		}
		if time.Since(started) > 24*time.Hour {
			w.t.Fatal("the poll does not end")
		}
	}
}

func (w *network) opcodes(from, to lockss.PeerID) (out []lcap.Opcode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.log {
		if s.from == from && s.to == to {
			out = append(out, s.m.Opcode)
		}
	}
	return out
}

// damage spoils three URLs of a node, each in its way.
func (n *testNode) damage() {
	n.lib.change(page(3), func(d *doc) { d.data = []byte("this is XXXX 3") })
	n.lib.change(page(5), func(d *doc) { d.broken = true })
	n.lib.remove(page(7))
}

func TestNetworkAgreeAndRepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 5, nil)
		defer stop()
		for i := 1; i <= 5; i++ {
			s := w.poll(i)
			if s.Status != "Complete" || s.Agreement != 1 || s.Voters != 4 || s.Won != 20 || s.URLs != 20 {
				t.Errorf("node %d: %+v", i, s.Result)
			}
		}
		n := w.node(1)
		if g, ok := n.aud.c.Peers.Agreement(testAU, testID(2), peer.POR); !ok || g.Percent != 1 {
			t.Errorf("agreement with node 2: %+v", g)
		}
		if g, ok := n.aud.c.Peers.Agreement(testAU, testID(2), peer.PORHint); !ok || g.Percent != 1 {
			t.Errorf("hint of node 2: %+v", g)
		}
		if e := n.ends[0]; e.Status != Complete || e.AgreeingPeers != 4 || e.Agreement != 1 || e.LastPoll.IsZero() {
			t.Errorf("recorded with the unit: %+v", e)
		}

		n.damage()
		s := w.poll(1)
		if s.Status != "Complete" || s.Repairs != 3 || s.Agreement != 1 || s.Won != 20 || len(n.repairs) != 3 {
			t.Errorf("after damage: %+v\n%+v", s.Result, n.repairs)
		}
		for _, q := range s.Participants {
			if q.Count != (Count{Agree: 17, Disagree: 2, VoterOnly: 1}) || float32(q.Agreement) != 17.0/20 {
				t.Errorf("%s: %+v", q.Peer, q)
			}
		}
		byURL := map[string]URLStatus{}
		for _, u := range s.Listed {
			byURL[u.URL] = u
		}
		if len(byURL) != 3 || byURL[page(3)].Result != Lost || byURL[page(5)].Result != Lost || byURL[page(7)].Result != LostVoterOnly || byURL[page(7)].After != "WON" {
			t.Errorf("listed: %+v", s.Listed)
		}
		for _, r := range n.repairs {
			if r.Result != RepairVerified || r.From == "" || r.New == "" || r.Old == r.New {
				t.Errorf("%+v", r)
			}
			d, _ := n.lib.current(r.URL)
			if string(d.data) != testBodies()[r.URL] || d.props["x-lockss-repaired-from"] != string(r.From) || d.props["x-lockss-repaired-date"] == "" ||
				d.props["x-lockss-node-url"] != r.URL {
				t.Errorf("%s: %q %v", r.URL, d.data, d.props)
			}
		}
		if len(n.lib.urls[page(3)]) != 2 {
			t.Error("the altered version was not kept")
		}
		// What the others were told is the agreement before the repair.
		if v := w.node(2).aud.Votes(); len(v) == 0 || float32(v[0].Hint) != 17.0/20 || v[0].Status != "Complete" {
			t.Errorf("votes of node 2: %+v", v)
		}
		if s := w.poll(1); s.Agreement != 1 || s.Repairs != 0 || len(s.Listed) != 0 {
			t.Errorf("next poll: %+v", s.Result)
		}
	})
}

func TestNetworkTotalLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 5, nil)
		defer stop()
		for i := 2; i <= 5; i++ {
			w.poll(i)
		}
		n := w.node(1)
		n.lib.urls = map[string][]doc{}
		if s := w.poll(1); s.Repairs != 20 || s.Agreement != 1 || !slices.Equal(slices.Sorted(maps.Keys(n.lib.urls)), slices.Sorted(maps.Keys(testBodies()))) {
			t.Errorf("%+v", s.Result)
		}
	})
}

// TestNetworkSlowDisk: who sends copies waits until they are stored; they do not pile up.
func TestNetworkSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 5, nil)
		defer stop()
		for i := 2; i <= 5; i++ {
			w.poll(i)
		}
		n, most := w.node(1), 0
		for i := range 20 {
			n.lib.remove(page(i))
		}
		n.storing = func() {
			time.Sleep(5 * time.Second)
			n.aud.mu.Lock()
			r := n.aud.byAU[testAU]
			n.aud.mu.Unlock()
			r.mu.Lock()
			most = max(most, r.bodies)
			r.mu.Unlock()
		}
		if s := w.poll(1); s.Repairs != 20 || most < 1 || most > 4 {
			t.Errorf("%d repairs, %d copies in memory, want 20 and at most one of each voter", s.Repairs, most)
		}
	})
}

func TestNetworkRepairRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 5, nil)
		defer stop()
		w.node(1).damage()
		s := w.poll(1)
		if s.Status != "Complete" || s.Repairs != 0 || s.Agreement != 17.0/20 {
			t.Errorf("%+v", s.Result)
		}
		if want := s.Deadline.Sub(s.Started); s.Ended.Sub(s.Started) != want || want != (4*time.Second+5*time.Minute+5*time.Second+5*time.Minute+5*time.Minute+20*time.Minute) {
			t.Errorf("took %v, deadline after %v", s.Ended.Sub(s.Started), want)
		}
		for _, r := range w.node(1).repairs {
			if r.Result != RepairFailed || !strings.Contains(r.Reason, "no answer") {
				t.Errorf("%+v", r)
			}
		}
		refused := 0
		for i := 2; i <= 5; i++ {
			v := w.node(i).aud.Votes()
			refused += v[0].Refused
			if v[0].Status != "Complete" || float32(v[0].Hint) != 17.0/20 {
				t.Errorf("vote of node %d: %+v", i, v[0])
			}
		}
		if refused != 3 {
			t.Errorf("%d refused", refused)
		}
	})
}

func TestNetworkPublisherRepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 5, func(p *Params) { p.RepairFromCacheShare = 0 })
		defer stop()
		n := w.node(1)
		n.aud.c.Refetcher = n
		n.refetch = func(url string) ([]byte, error) {
			switch url {
			case page(3):
				return []byte(testBodies()[url]), nil
			case page(5):
				return []byte("the publisher has changed it"), nil
			}
			return nil, errNotHeld
		}
		n.damage()
		s := w.poll(1)
		got := map[string]string{}
		for _, r := range n.repairs {
			got[r.URL] = r.Result
			if r.From != "" {
				t.Errorf("from a peer: %+v", r)
			}
		}
		want := map[string]string{page(3): RepairVerified, page(5): RepairDisputed, page(7): RepairFailed}
		if !maps.Equal(got, want) || s.Status != "Complete" || s.Ended.Sub(s.Started) > 5*time.Minute+30*time.Second {
			t.Errorf("%v, %s after %v", got, s.Status, s.Ended.Sub(s.Started))
		}
		for _, s := range w.log {
			if s.m.Opcode == lcap.OpRepairReq {
				t.Error("a peer was asked")
			}
		}
		// With the publisher down the same unit asks peers.
		n.mu.Lock()
		n.unit.PublisherDown = true
		n.mu.Unlock()
		for i := 2; i <= 5; i++ {
			w.poll(i)
		}
		if s := w.poll(1); s.Repairs != 2 || s.Agreement != 1 {
			t.Errorf("publisher down: %+v", s.Result)
		}
	})
}

// TestNetworkVoterDies kills node 5 at each message that it sends or is sent: the poll ends at
// the deadline of that phase at the latest, and the others' votes decide.
func TestNetworkVoterDies(t *testing.T) {
	for _, c := range []struct {
		op     lcap.Opcode
		status string
	}{
		{lcap.OpPoll, "No Response"}, {lcap.OpPollAck, "No Response"}, {lcap.OpPollProof, "Didn't Vote"}, {lcap.OpNominate, "Didn't Vote"},
		{lcap.OpVoteRequest, "Didn't Vote"}, {lcap.OpVote, "Didn't Vote"}, {lcap.OpRepairReq, "Complete"}, {lcap.OpRepairRep, "Complete"},
		{lcap.OpEvaluationReceipt, "Complete"},
	} {
		t.Run(c.op.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, stop := newNetwork(t, 5, nil)
				defer stop()
				for i := 2; i <= 5; i++ {
					w.poll(i)
				}
				w.node(1).damage()
				dead, dies := false, testID(5)
				w.pass = func(from, to lockss.PeerID, m *lcap.Message) []*lcap.Message {
					dead = dead || m.Opcode == c.op && (from == dies || to == dies)
					if dead && (from == dies || to == dies) {
						return nil
					}
					return []*lcap.Message{m}
				}
				s := w.poll(1)
				i := slices.IndexFunc(s.Participants, func(q Participant) bool { return q.Peer == dies })
				if s.Status != "Complete" || i < 0 || s.Participants[i].Status != c.status {
					t.Errorf("%s, node 5: %+v", s.Status, s.Participants[max(i, 0)])
				}
				if s.Ended.After(s.Deadline) || c.op < lcap.OpRepairReq && s.Repairs != 3 {
					t.Errorf("ended %v, deadline %v, %d repairs", s.Ended, s.Deadline, s.Repairs)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				for i := 1; i <= 5; i++ {
					for _, v := range w.node(i).aud.Votes() {
						if v.Running {
							t.Errorf("node %d still votes: %+v", i, v)
						}
					}
				}
			})
		})
	}
}

func TestNetworkNoQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 5, func(p *Params) { p.Quorum = 5 })
		defer stop()
		w.node(4).held = false
		w.node(5).unit.Crawled = false
		w.node(1).damage()
		s := w.poll(1)
		naks := map[lcap.NAK]int{}
		for _, q := range s.Participants {
			naks[q.NAK]++
		}
		if s.Status != "No Quorum" || s.Voters != 2 || s.Agreement != -1 || naks[lcap.NAKNoAU] != 1 || naks[lcap.NAKNotCrawled] != 1 || len(w.node(1).repairs) != 0 {
			t.Errorf("%+v", s.Result)
		}
		if !w.node(1).ends[0].LastPoll.IsZero() {
			t.Error("a poll without quorum postpones the next")
		}
		// Agreement is measured all the same, over all URLs, the tail included.
		if g, ok := w.node(1).aud.c.Peers.Agreement(testAU, testID(2), peer.POR); !ok || g.Percent != 17.0/20 {
			t.Errorf("agreement %+v", g)
		}
		if c := w.node(1).aud.c.Peers.Candidates(testAU, time.Now(), time.Now(), 5); slices.ContainsFunc(c, func(c peer.Candidate) bool { return c.Peer == testID(4) }) {
			t.Error("the peer without the unit is invited again")
		}
	})
	synctest.Test(t, func(t *testing.T) { // nobody at all
		w, stop := newNetwork(t, 1, nil)
		defer stop()
		if s := w.poll(1); s.Status != "No Quorum" || s.Voters != 0 {
			t.Errorf("%+v", s.Result)
		}
	})
}

func TestNetworkDuplicates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 5, nil)
		defer stop()
		w.pass = func(from, to lockss.PeerID, m *lcap.Message) []*lcap.Message { return []*lcap.Message{m, m, m} }
		for i := 2; i <= 5; i++ {
			w.poll(i)
		}
		w.node(1).damage()
		if s := w.poll(1); s.Status != "Complete" || s.Repairs != 3 || s.Agreement != 1 {
			t.Errorf("%+v", s.Result)
		}
		for _, u := range []string{page(3), page(5), page(7)} {
			if n := len(w.node(1).lib.urls[u]); n > 2 {
				t.Errorf("%s stored %d times", u, n-1)
			}
		}
		if v := w.node(2).aud.Votes(); v[0].Status != "Complete" {
			t.Errorf("%+v", v[0])
		}
	})
}

// TestNetworkHostileRepairs lets the peer that is asked, and others, send what was not asked for.
func TestNetworkHostileRepairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 5, nil)
		defer stop()
		for i := 2; i <= 5; i++ {
			w.poll(i)
		}
		n := w.node(1)
		n.damage()
		w.pass = func(from, to lockss.PeerID, m *lcap.Message) []*lcap.Message {
			if m.Opcode != lcap.OpRepairRep || to != n.id {
				return []*lcap.Message{m}
			}
			bad := func(f func(*lcap.Message)) *lcap.Message {
				c := *m
				c.RepairData = []byte("evil")
				c.RepairLength = 4
				f(&c)
				return &c
			}
			// Another voter answers in its place, and an outsider.
			for _, other := range []lockss.PeerID{testID(2), testID(3), testID(4), testID(5), testID(9)} {
				if other != from {
					go n.aud.Receive(other, bad(func(*lcap.Message) {}))
				}
			}
			if m.URL == page(7) { // a whole lie
				return []*lcap.Message{bad(func(*lcap.Message) {})}
			}
			return []*lcap.Message{
				bad(func(m *lcap.Message) { m.RepairLength = 5 }),                   // cut short
				bad(func(m *lcap.Message) { m.RepairProps = nil }),                  // no headers
				bad(func(m *lcap.Message) { m.URL = page(1) }),                      // not asked
				bad(func(m *lcap.Message) { m.URL = "http://elsewhere.example/x" }), // not ours
				bad(func(m *lcap.Message) { m.Key = "another" }),                    // no such poll
				m,                           // as it should be
				bad(func(*lcap.Message) {}), // once more
			}
		}
		s := w.poll(1)
		got := map[string]string{}
		for _, r := range n.repairs {
			got[r.URL] = r.Result
		}
		if want := map[string]string{page(3): RepairVerified, page(5): RepairVerified, page(7): RepairDisputed}; !maps.Equal(got, want) || s.Status != "Complete" {
			t.Errorf("%s %v, want %v", s.Status, got, want)
		}
		for u, body := range testBodies() {
			d, _ := n.lib.current(u)
			if string(d.data) != body && u != page(7) {
				t.Errorf("%s is now %q", u, d.data)
			}
		}
		if len(n.lib.urls) != 20 || len(n.lib.urls[page(7)]) != 1 {
			t.Errorf("%d URLs", len(n.lib.urls))
		}
		w.mu.Lock()
		w.pass = nil
		w.mu.Unlock()
		if s := w.poll(1); s.Repairs != 1 || s.Agreement != 1 {
			t.Errorf("the lie was not repaired by the next poll: %+v", s.Result)
		}
	})
}

// randomMessage makes a message that may be anything.
func randomMessage(r *rand.Rand, key string) *lcap.Message {
	bytes := func() []byte {
		b := make([]byte, r.IntN(100))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	urls := []string{"", page(0), page(3), page(7), "http://x/", "\xff", "http://press.example/v1/page05.html/"}
	m := &lcap.Message{Opcode: lcap.Opcode(r.IntN(14) + 8), Minor: byte(r.IntN(8)), Key: key, AU: testAU, PlugVer: "3", HashAlgorithm: []string{"SHA-1", "MD5", "XYZ"}[r.IntN(3)],
		Duration: time.Duration(r.Int64N(int64(time.Hour))), VoteDuration: time.Duration(r.Int64N(int64(time.Hour))), PollerNonce: bytes(), VoterNonce: bytes(),
		VoterNonce2: bytes(), SampleNonce: bytes(), Modulus: r.IntN(5) - 2, Groups: []string{lcap.NoGroup}, URL: urls[r.IntN(len(urls))],
		RepairData: bytes(), RepairLength: r.Int64N(100), AgreementHint: 4*r.Float64() - 2, WeightedAgreementHint: -1}
	if r.IntN(3) == 0 {
		m.NAK = lcap.NAKNoAU
	}
	if r.IntN(2) == 0 {
		m.RepairProps = map[string]string{"A": "b"}
	}
	for range r.IntN(6) {
		m.Nominees = append(m.Nominees, testID(r.IntN(200)))
		m.Blocks = append(m.Blocks, lcap.VoteBlock{URL: urls[r.IntN(len(urls))], Versions: []lcap.Version{{Plain: bytes(), Nonced: bytes(), Unfiltered: r.Int64() - r.Int64(), Err: r.IntN(3) == 0}}})
	}
	return m
}

func TestNetworkGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 5, nil)
		defer stop()
		r := rand.New(rand.NewPCG(3, 3))
		w.pass = func(from, to lockss.PeerID, m *lcap.Message) []*lcap.Message {
			out := []*lcap.Message{m}
			for range 3 { // from a stranger, to the same poll
				if w.nodes[to] == nil {
					break
				}
				go w.nodes[to].aud.Receive(testID(77), randomMessage(r, m.Key))
			}
			return out
		}
		if s := w.poll(1); s.Status != "Complete" || s.Agreement != 1 {
			t.Errorf("%+v", s.Result)
		}
		// Now one of the voters talks nonsense itself: the poll still ends in time.
		w.mu.Lock()
		w.pass = func(from, to lockss.PeerID, m *lcap.Message) []*lcap.Message {
			out := []*lcap.Message{m}
			if from == testID(5) || to == testID(5) {
				for range 3 {
					out = append(out, randomMessage(r, m.Key))
				}
			}
			return out
		}
		w.mu.Unlock()
		s := w.poll(1)
		if s.Running || s.Ended.Sub(s.Started) > time.Hour {
			t.Errorf("%+v", s.Result)
		}
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		for i := 1; i <= 5; i++ {
			for _, v := range w.node(i).aud.Votes() {
				if v.Running {
					t.Errorf("node %d still votes: %+v", i, v)
				}
			}
		}
	})
}

// TestMachinesGarbage feeds the machines with random events directly.
func TestMachinesGarbage(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := testParams()
		p.Quorum, p.RepairFromCacheShare = 1, 1
		var cand []peer.Candidate
		for i := 2; i < 8; i++ {
			cand = append(cand, peer.Candidate{Peer: testID(i), Weight: 1})
		}
		poller, err := NewPoller(PollerConfig{Params: p, Local: testID(1), AU: testAU, Key: "k", Variant: PoR, Duration: 15 * time.Minute, Candidates: cand, Rand: r, Nonce: lockss.NewNonce})
		if err != nil {
			t.Fatal(err)
		}
		voter, err := NewVoter(VoterConfig{Params: p, Local: testID(1), Poller: testID(2), Poll: &lcap.Message{Key: "k", AU: testAU, HashAlgorithm: "SHA-1",
			Duration: 15 * time.Minute, VoteDuration: 5 * time.Minute, PollerNonce: []byte("n")}, Rand: r, Nonce: lockss.NewNonce, Symmetric: seed%2 == 0})
		if err != nil {
			t.Fatal(err)
		}
		lib := newLibrary(testBodies())
		for _, m := range []machine{poller, voter} {
			now := replayStart
			var queue []Event
			queue = append(queue, Begin{})
			for n := 0; n < 3000 && !m.Done(); n++ {
				if len(queue) == 0 {
					switch r.IntN(6) {
					case 0:
						queue = append(queue, Hashed{r.IntN(4), lcap.HashedBlock{URL: page(r.IntN(20))}})
					case 1:
						queue = append(queue, HashDone{ID: r.IntN(4)}, Stored{URL: page(3)}, Refetched{URL: page(3)}, Copy{URL: page(3)})
					case 2:
						now = now.Add(time.Duration(r.IntN(10)) * time.Second)
						queue = append(queue, Tick{})
					default:
						queue = append(queue, Received{testID(r.IntN(9)), randomMessage(r, "k")})
					}
				}
				ev := queue[0]
				queue = queue[1:]
				for _, e := range m.Step(now, ev) {
					if h, ok := e.(Hash); ok && r.IntN(3) > 0 {
						_ = lib.hash(context.Background(), h.Request, func(b lcap.HashedBlock) error { queue = append(queue, Hashed{h.ID, b}); return nil })
						queue = append(queue, HashDone{ID: h.ID})
					}
				}
			}
			for n := 0; !m.Done(); n++ {
				next := m.Next()
				if n > 1000 || next.IsZero() {
					t.Fatalf("seed %d: %T does not end", seed, m)
				}
				now = next
				m.Step(now, Tick{})
			}
			if now.Sub(replayStart) > 2*time.Hour {
				t.Errorf("seed %d: %T ended after %v", seed, m, now.Sub(replayStart))
			}
		}
	}
}

// TestNetworkOwnHashFails: a poll whose own hash cannot be made ends without receipts.
func TestNetworkOwnHashFails(t *testing.T) {
	for _, c := range []struct {
		err    error
		status string
	}{{ErrTimeout, "Expired"}, {errNotHeld, "Error"}, {ErrNoTime, "No Time Available"}} {
		synctest.Test(t, func(t *testing.T) {
			w, stop := newNetwork(t, 5, nil)
			defer stop()
			w.node(1).hashErr = c.err
			if s := w.poll(1); s.Status != c.status || s.Agreement != -1 {
				t.Errorf("%+v", s.Result)
			}
			if slices.Contains(w.opcodes(testID(1), testID(2)), lcap.OpEvaluationReceipt) {
				t.Error("a receipt was sent")
			}
			w.node(1).hashErr = nil
			w.node(2).hashErr = c.err // as a voter: says so in place of the vote
			s := w.poll(1)
			i := slices.IndexFunc(s.Participants, func(q Participant) bool { return q.Peer == testID(2) })
			if s.Status != "Complete" || s.Voters != 3 || s.Participants[i].Status != "Dropped Out" || s.Participants[i].NAK == "" {
				t.Errorf("%+v", s.Participants[i])
			}
		})
	}
}

func TestNetworkSymmetric(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 5, func(p *Params) { p.EnableSymmetric = true })
		defer stop()
		w.node(1).damage()
		w.poll(1)
		// Every voter has measured node 1 by its receipt, so it serves it now.
		if g, ok := w.node(2).aud.c.Peers.Agreement(testAU, testID(1), peer.SymmetricPOR); !ok || g.Percent != 17.0/20 {
			t.Errorf("%+v", g)
		}
		if s := w.poll(1); s.Repairs != 3 || s.Agreement != 1 {
			t.Errorf("%+v", s.Result)
		}
	})
}

func TestNetworkSampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 5, func(p *Params) { p.EnablePoP, p.AllPoP, p.Modulus = true, true, 2 })
		defer stop()
		n := w.node(1)
		n.lib.remove(page(1))
		n.lib.remove(page(2))
		if err := n.aud.call(w.ctx, time.Now().AddDate(0, 0, 2), testAU, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		s := n.aud.Polls()[0]
		if s.Variant != PoP || s.Status != "Complete" || s.URLs == 0 || s.URLs >= 20 {
			t.Errorf("%+v", s.Result)
		}
		if g, ok := w.node(2).aud.c.Peers.Agreement(testAU, testID(1), peer.POPHint); !ok || g.Percent <= 0 {
			t.Errorf("%+v", g)
		}
	})
}

// TestNetworkStarter: polls are called when due, without a request.
func TestNetworkStarter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 5, nil)
		defer stop()
		time.Sleep(69 * 24 * time.Hour)
		synctest.Wait()
		for i := 1; i <= 5; i++ {
			if p := w.node(i).aud.Polls(); len(p) > 0 || len(w.node(i).kept()) > 0 {
				t.Fatalf("node %d polled before it was due", i)
			}
		}
		time.Sleep(2 * 24 * time.Hour)
		synctest.Wait()
		for i := 1; i <= 5; i++ {
			n := w.node(i)
			polls := 0
			for _, r := range n.kept() {
				if r.Role == RolePoller {
					polls++
				}
			}
			if polls != 1 {
				t.Errorf("node %d called %d polls", i, polls)
			}
		}
	})
}

func TestNetworkStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 5, nil)
		if err := w.node(1).aud.Call(testAU); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if err := w.node(1).aud.Call(testAU); err == nil {
			t.Error("a second poll on the unit was taken")
		}
		if err := w.node(1).aud.Call("nothing"); err == nil {
			t.Error("a poll on no unit was taken")
		}
		stop()
		if r := w.node(1).kept(); len(r) != 1 || r[0].Status != "Aborted" {
			t.Errorf("%+v", r)
		}
	})
}

func TestJudge(t *testing.T) {
	good := func() (Applicant, *lcap.Message) {
		return Applicant{Held: true, Ready: true, Unit: Unit{PollVersion: "3", Crawled: true}, Enabled: true, Groups: []string{"a", "b"}, MaxVotes: 2, Chance: 1},
			&lcap.Message{Opcode: lcap.OpPoll, Minor: 5, PlugVer: "3", Groups: []string{"x", "b"}, Duration: 10 * time.Minute, VoteDuration: 5 * time.Minute,
				HashAlgorithm: "SHA-1", PollerNonce: []byte("n")}
	}
	for _, c := range []struct {
		name   string
		change func(*Applicant, *lcap.Message)
		nak    lcap.NAK
		accept bool
	}{
		{"all well", func(*Applicant, *lcap.Message) {}, "", true},
		{"no duration", func(a *Applicant, m *lcap.Message) { m.Duration = 0; m.Minor = 7 }, "", false},
		{"revision", func(a *Applicant, m *lcap.Message) { m.Minor = 6; a.Held = false }, lcap.NAKVersionMismatch, false},
		{"not held", func(a *Applicant, m *lcap.Message) { a.Held = false; m.PlugVer = "9" }, lcap.NAKNoAU, false},
		{"loading", func(a *Applicant, m *lcap.Message) { a.Held, a.Ready = false, false }, lcap.NAKNotReady, false},
		{"plugin", func(a *Applicant, m *lcap.Message) { m.PlugVer = "4"; a.Self = true }, lcap.NAKPluginVersionMismatch, false},
		{"plugin absent is 1", func(a *Applicant, m *lcap.Message) { m.PlugVer = ""; a.Unit.PollVersion = "1" }, "", true},
		{"ourselves", func(a *Applicant, m *lcap.Message) { a.Self = true; a.Enabled = false }, "", false},
		{"disabled", func(a *Applicant, m *lcap.Message) { a.Enabled = false; m.Groups = nil }, lcap.NAKDisabled, false},
		{"group", func(a *Applicant, m *lcap.Message) { m.Groups = nil; a.Unit.NoSubstance = true }, lcap.NAKGroupMismatch, false},
		{"substance", func(a *Applicant, m *lcap.Message) { a.Unit.NoSubstance = true; a.Unit.Crawled = false }, lcap.NAKNoSubstance, false},
		{"crawled", func(a *Applicant, m *lcap.Message) { a.Unit.Crawled = false; a.RunningVotes = 9 }, lcap.NAKNotCrawled, false},
		{"voters", func(a *Applicant, m *lcap.Message) { a.RunningVotes = 2; a.Chance = 0 }, lcap.NAKTooManyVoters, false},
		{"safe", func(a *Applicant, m *lcap.Message) { a.Chance = 0.5; a.Draw = 0.5; m.HashAlgorithm = "X" }, lcap.NAKHaveSufficientRepairers, false},
		{"algorithm", func(a *Applicant, m *lcap.Message) { m.HashAlgorithm = "X" }, lcap.NAKUnknown, false},
		{"vote deadline", func(a *Applicant, m *lcap.Message) { m.VoteDuration = 10 * time.Minute }, "", false},
		{"vote deadline just before", func(a *Applicant, m *lcap.Message) { m.VoteDuration = 10*time.Minute - time.Millisecond }, "", true},
		{"algorithm before vote deadline", func(a *Applicant, m *lcap.Message) { m.HashAlgorithm = "X"; m.VoteDuration = time.Hour }, lcap.NAKUnknown, false},
		{"no nonce", func(a *Applicant, m *lcap.Message) { m.PollerNonce = nil }, "", false},
		{"key of unusable length", func(a *Applicant, m *lcap.Message) { m.Key = strings.Repeat("k", maxKey) }, "", false},
	} {
		a, m := good()
		c.change(&a, m)
		if got := a.Judge(m); got.Accept != c.accept || got.NAK != c.nak {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	m := &lcap.Message{Minor: 6, Key: "k", AU: testAU, PlugVer: "3", Duration: time.Minute}
	d := Decline(m, testID(1), testID(2), []string{"g"}, "4", lcap.NAKPluginVersionMismatch)
	if d.PlugVer != "4" || d.NAK == "" || len(d.VoterNonce) > 0 || d.Minor != 6 || d.Key != "k" || d.Duration != time.Minute {
		t.Errorf("%+v", d)
	}
}

// TestInvitationTime: the schedule is asked before the deadlines are compared (10.1).
func TestInvitationTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newNetwork(t, 2, nil)
		defer stop()
		for _, c := range []struct {
			key            string
			duration, vote time.Duration
			nak            lcap.NAK
			answers        int
		}{
			{"both too short", 10 * time.Second, 10 * time.Second, lcap.NAKNoTime, 1},
			{"vote too long", 10 * time.Minute, 10 * time.Minute, "", 0},
			{"too short", 10 * time.Minute, 30 * time.Second, lcap.NAKNoTime, 1},
			{"well", 10 * time.Minute, 5 * time.Minute, "", 1},
		} {
			w.node(1).aud.Receive(testID(2), &lcap.Message{Opcode: lcap.OpPoll, Minor: 5, Key: c.key, AU: testAU, PlugVer: "3", Groups: []string{lcap.NoGroup},
				HashAlgorithm: "MD5", Duration: c.duration, VoteDuration: c.vote, PollerNonce: []byte("n")})
			time.Sleep(time.Second)
			synctest.Wait()
			w.mu.Lock()
			n := 0
			for _, s := range w.log {
				if s.m.Key == c.key {
					if n++; s.m.Opcode != lcap.OpPollAck || s.m.NAK != c.nak || (c.nak == "") != (len(s.m.VoterNonce) > 0) {
						t.Errorf("%s: %+v", c.key, s.m)
					}
				}
			}
			w.mu.Unlock()
			if n != c.answers {
				t.Errorf("%s: %d answers, want %d", c.key, n, c.answers)
			}
		}
	})
}

// TestVoterWithoutHash: a voter that has no vote says why in a Vote, when it is asked.
func TestVoterWithoutHash(t *testing.T) {
	for _, c := range []struct {
		err    error
		nak    lcap.NAK
		status string
	}{
		{fmt.Errorf("crawled: %w, %w", ErrNoTime, ErrTimeout), lcap.NAKNoTime, "No Time Available"},
		{ErrTimeout, lcap.NAKHashTimeout, "Error"},
		{errNotHeld, lcap.NAKHashError, "Error"},
		{nil, lcap.NAKNoSubstance, "Aborted: No Substantial Content"},
		{nil, "", ""},
	} {
		v, err := NewVoter(VoterConfig{Params: testParams(), Local: testID(1), Poller: testID(2), Poll: &lcap.Message{Key: "k", AU: testAU, Minor: 5,
			HashAlgorithm: "SHA-1", Duration: 15 * time.Minute, VoteDuration: 5 * time.Minute, PollerNonce: []byte("n")}, Nonce: lockss.NewNonce,
			Rand: rand.New(rand.NewPCG(1, 1))})
		if err != nil {
			t.Fatal(err)
		}
		ask := Received{testID(2), &lcap.Message{Opcode: lcap.OpVoteRequest, Key: "k"}}
		events := []Event{Begin{}, Received{testID(2), &lcap.Message{Opcode: lcap.OpPollProof, Key: "k"}}, ask}
		if c.nak == "" {
			events = append(events, Hashed{tallyHash, lcap.HashedBlock{URL: page(1)}})
		}
		events = append(events, HashDone{tallyHash, c.err})
		for range 2 * maxSent {
			events = append(events, ask)
		}
		var votes []*lcap.Message
		for _, ev := range events {
			for _, e := range v.Step(replayStart, ev) {
				if s, ok := e.(Send); ok && s.M.Opcode == lcap.OpVote {
					votes = append(votes, s.M)
				}
			}
		}
		want := 1
		if c.nak == "" {
			want = maxSent // asked again, it is sent again
		}
		if len(votes) != want || votes[0].NAK != c.nak || votes[0].VoteComplete != (c.nak == "") || (len(votes[0].VoterNonce) > 0) != (c.nak == "") {
			t.Errorf("%v: %d votes, %+v, want %d with %q", c.err, len(votes), votes, want, c.nak)
		}
		if got := v.Status().Status; c.nak != "" && got != c.status {
			t.Errorf("%v: %s, want %s", c.err, got, c.status)
		}
	}
}

func TestSchedule(t *testing.T) {
	p := testParams()
	p.PollIntervalCurve, p.PollIntervalLastResult = "[0,1d],[50,1d],[100,10w]", []string{"Complete"}
	s, err := newSchedule(p)
	if err != nil {
		t.Fatal(err)
	}
	now := replayStart
	u := Unit{Crawled: true, LastPoll: now.AddDate(0, 0, -7), LastPollResult: int(Complete), Agreement: 1}
	if w := s.weight(u, now, 0, false); w != 0 {
		t.Errorf("not due: %v", w)
	}
	u.Agreement = 0.4
	if w := s.weight(u, now, 0, false); w != 7 {
		t.Errorf("low agreement: %v", w)
	}
	if w := s.weight(Unit{}, now, 0, false); w < 100 {
		t.Errorf("never polled: %v", w)
	}
	for _, c := range []struct {
		name   string
		u      Unit
		manual bool
		want   bool
	}{
		{"crawled", Unit{Crawled: true}, false, true},
		{"not crawled", Unit{}, false, false},
		{"not crawled, requested", Unit{}, true, true},
		{"publisher down", Unit{PublisherDown: true}, false, true},
		{"flagged", Unit{Crawled: true, NoPoll: true}, false, false},
		{"attempted", Unit{Crawled: true, LastAttempt: now.Add(-time.Hour)}, false, false},
	} {
		if got, why := s.eligible(c.u, now, c.manual); got != c.want {
			t.Errorf("%s: %v (%s)", c.name, got, why)
		}
	}
	if _, ok := s.variant(Unit{LastPoll: now.Add(-time.Hour)}, now, 0, false); ok {
		t.Error("polled again within a day")
	}
	if average(0, time.Second) != time.Second || average(time.Second, 2*time.Second) != 1500500*time.Microsecond {
		t.Error("average")
	}
	p.PollIntervalLastResult = []string{"whatever"}
	if _, err := newSchedule(p); err == nil {
		t.Error("a result without meaning was taken")
	}
}

// BenchmarkPoll runs a poll of 20,000 small URLs with two voters through the machines: own hash,
// votes and tally, without the digests themselves.
func BenchmarkPoll(b *testing.B) {
	const urls = 20000
	digest := func(i int, x byte) []byte {
		d := make([]byte, 20)
		d[0], d[1], d[2], d[19] = byte(i), byte(i>>8), byte(i>>16), x
		return d
	}
	own := make([]lcap.HashedBlock, urls)
	votes := [2][]lcap.VoteBlock{}
	for i := range own {
		u := fmt.Sprintf("http://press.example/v1/section%02d/page%05d.html", i/1000, i)
		own[i] = lcap.HashedBlock{URL: u, Versions: []lcap.HashedVersion{{Unfiltered: 100, Filtered: 100, Plain: digest(i, 0), Nonced: [][]byte{digest(i, 1), digest(i, 2)}}}}
		for v := range votes {
			votes[v] = append(votes[v], lcap.VoteBlock{URL: strings.Clone(u), Versions: []lcap.Version{{Unfiltered: 100, Filtered: 100, Plain: digest(i, 0), Nonced: digest(i, byte(v+1))}}})
		}
	}
	p := testParams()
	p.Quorum = 2
	b.ReportAllocs()
	for b.Loop() {
		m, err := NewPoller(PollerConfig{Params: p, Local: testID(1), AU: testAU, Key: "k", Variant: PoR, Duration: 15 * time.Minute,
			Candidates: []peer.Candidate{{Peer: testID(2), Weight: 1}, {Peer: testID(3), Weight: 1}}, Rand: rand.New(rand.NewPCG(1, 1)), Nonce: lockss.NewNonce})
		if err != nil {
			b.Fatal(err)
		}
		now := replayStart
		m.Step(now, Begin{})
		for i, q := range m.parts {
			for _, op := range []lcap.Opcode{lcap.OpPollAck, lcap.OpNominate, lcap.OpVote} {
				r := &lcap.Message{Opcode: op, VoterNonce: []byte("n")}
				if op == lcap.OpVote {
					r.Blocks = votes[i]
				}
				m.Step(now, Received{q.id, r})
			}
		}
		for _, x := range own {
			m.Step(now, Hashed{tallyHash, x})
		}
		var res Result
		for _, e := range m.Step(now, HashDone{ID: tallyHash}) {
			if f, ok := e.(Finished); ok {
				res = f.Result
			}
		}
		if res.Won != urls || res.Agreement != 1 {
			b.Fatalf("%+v", res)
		}
	}
}
