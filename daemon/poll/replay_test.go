package poll

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
	"armarium/daemon/peer"
)

// recorded is one message of a recording.
type recorded struct {
	t        time.Duration
	from, to lockss.PeerID
	m        *lcap.Message
}

// recording is one poll as it went over the wire.
type recording struct {
	name   string
	poller lockss.PeerID
	events []recorded
	holds  map[lockss.PeerID]func() *library // content before the poll; absent: unknown
	params func(*Params)
}

// of returns the messages with this key only.
func (r recording) of(n int) recording {
	var keys []string
	for _, e := range r.events {
		if !slices.Contains(keys, e.m.Key) {
			keys = append(keys, e.m.Key)
		}
	}
	var out []recorded
	for _, e := range r.events {
		if e.m.Key == keys[n] {
			out = append(out, e)
		}
	}
	start := out[0].t
	for i := range out {
		out[i].t -= start
	}
	r.events = out
	return r
}

var replayStart = time.Unix(1795202000, 0)

// compare holds what we send against what was recorded. Ours names its sender; durations may
// differ by the time the recorded peers took.
func compare(t *testing.T, got, want *lcap.Message, local, to lockss.PeerID) {
	t.Helper()
	// What arrives is what counts.
	b, err := lcap.Append(nil, got)
	if err != nil {
		t.Errorf("%v to %s: %v", got.Opcode, to, err)
		return
	}
	g, err := lcap.Decode(b)
	if err != nil {
		t.Errorf("%v to %s: %v", got.Opcode, to, err)
		return
	}
	w := *want
	if g.OrigID != local || g.DestID != to {
		t.Errorf("%v: from %s to %s, want %s, %s", g.Opcode, g.OrigID, g.DestID, local, to)
	}
	if d := g.Duration - w.Duration; d < -2*time.Second || d > 2*time.Second {
		t.Errorf("%v: duration %v, recorded %v", g.Opcode, g.Duration, w.Duration)
	}
	if d := g.VoteDuration - w.VoteDuration; d < -time.Second || d > time.Second {
		t.Errorf("%v: vote duration %v, recorded %v", g.Opcode, g.VoteDuration, w.VoteDuration)
	}
	if len(g.EffortProof) != len(w.EffortProof) {
		t.Errorf("%v: effort proof of %d bytes, recorded %d", g.Opcode, len(g.EffortProof), len(w.EffortProof))
	}
	w.OrigID, w.DestID, w.Duration, w.VoteDuration, w.EffortProof = g.OrigID, g.DestID, g.Duration, g.VoteDuration, g.EffortProof
	gv, wv := reflect.ValueOf(*g), reflect.ValueOf(w)
	for i := range gv.NumField() {
		f := gv.Type().Field(i).Name
		if f == "Blocks" {
			compareBlocks(t, g.Blocks, w.Blocks)
			continue
		}
		if !reflect.DeepEqual(gv.Field(i).Interface(), wv.Field(i).Interface()) {
			t.Errorf("%v to %s: %s is %v, recorded %v", g.Opcode, to, f, gv.Field(i).Interface(), wv.Field(i).Interface())
		}
	}
}

// compareBlocks compares vote blocks.
func compareBlocks(t *testing.T, got, want []lcap.VoteBlock) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d blocks, recorded %d", len(got), len(want))
		return
	}
	for i := range got {
		g, w := got[i], want[i]
		if g.URL != w.URL || !reflect.DeepEqual(g.Versions, w.Versions) {
			t.Errorf("block %d: %+v, recorded %+v", i, g, w)
			return
		}
	}
}

// playPoller lets our poller call the recorded poll. It reports false if chance chose other
// peers for repairs than were recorded; the caller tries another seed.
func playPoller(t *testing.T, r recording, seed uint64, final bool) (res Result, outcomes map[string]string, repairs []RepairRecord, ok bool) {
	first := r.events[0].m
	nonces := map[lockss.PeerID][]byte{}
	var cand []peer.Candidate
	asked := map[string]lockss.PeerID{}
	nominated := map[lockss.PeerID]bool{}
	expect := map[lockss.PeerID][]*lcap.Message{}
	last := time.Duration(0)
	for _, e := range r.events {
		if e.from != r.poller {
			for _, id := range e.m.Nominees {
				nominated[id] = true
			}
			continue
		}
		last = e.t
		expect[e.to] = append(expect[e.to], e.m)
		switch e.m.Opcode {
		case lcap.OpPoll:
			nonces[e.to] = e.m.PollerNonce
			if !nominated[e.to] { // else it belongs to the outer circle
				cand = append(cand, peer.Candidate{Peer: e.to, Weight: 1})
			}
		case lcap.OpRepairReq:
			asked[e.m.URL] = e.to
		}
	}
	params := testParams()
	r.params(&params)
	c := PollerConfig{Params: params, Local: r.poller, AU: first.AU, Key: first.Key, PlugVer: first.PlugVer, Groups: first.Groups,
		Variant: PoR, Duration: first.Duration + time.Second, Candidates: cand, Rand: rand.New(rand.NewPCG(seed, 1)), Nonce: lockss.NewNonce}
	if first.Modulus > 0 {
		c.Variant, c.Modulus, c.SampleNonce = PoP, first.Modulus, first.SampleNonce
	}
	p, err := NewPoller(c)
	if err != nil {
		t.Fatal(err)
	}
	lib := r.holds[r.poller]()
	now := replayStart
	sent := map[lockss.PeerID][]*lcap.Message{}
	matches := true
	outcomes = map[string]string{}
	var run func(ev Event)
	run = func(ev Event) {
		out := p.Step(now, ev)
		for id, q := range p.byID {
			q.pollerNonce = nonces[id]
		}
		for _, e := range out {
			switch e := e.(type) {
			case Send:
				if e.M.Opcode == lcap.OpPoll {
					e.M.PollerNonce = nonces[e.To]
				}
				if e.M.Opcode == lcap.OpRepairReq && asked[e.M.URL] != e.To {
					matches = false
				}
				sent[e.To] = append(sent[e.To], e.M)
			case Hash:
				err := lib.hash(context.Background(), e.Request, func(b lcap.HashedBlock) error { run(Hashed{e.ID, b}); return nil })
				run(HashDone{e.ID, err})
			case Store:
				lib.put(e.URL, e.Data, e.Props)
				run(Stored{e.URL, nil})
			case Repaired:
				repairs = append(repairs, e.Record)
			case Finished:
				res = e.Result
			}
		}
	}
	run(Begin{})
	for _, e := range r.events {
		if now = replayStart.Add(e.t); e.from != r.poller {
			if e.m.Opcode == lcap.OpRepairRep && !matches {
				return res, nil, nil, false
			}
			run(Received{e.from, e.m})
		}
	}
	for !p.Done() {
		now = p.Next()
		run(Tick{})
		if now.Sub(replayStart) > time.Hour {
			t.Fatal("the poll does not end")
		}
	}
	if !matches && !final {
		return res, nil, nil, false
	}
	if d := now.Sub(replayStart) - last; d > 2*time.Second {
		t.Errorf("ended %v after the recorded poll", d)
	}
	for id, want := range expect {
		if len(sent[id]) != len(want) {
			t.Errorf("%d messages to %s, recorded %d", len(sent[id]), id, len(want))
			continue
		}
		got := sent[id]
		for i := range want {
			// Requests for repairs go out at once; their order is free.
			if w := want[i]; w.Opcode == lcap.OpRepairReq {
				if j := slices.IndexFunc(got[i:], func(m *lcap.Message) bool { return m.URL == w.URL }); j > 0 {
					got[i], got[i+j] = got[i+j], got[i]
				}
			}
			if got[i].Opcode != want[i].Opcode {
				t.Fatalf("message %d to %s is %v, recorded %v", i, id, got[i].Opcode, want[i].Opcode)
			}
			compare(t, got[i], want[i], r.poller, id)
		}
	}
	for _, u := range res.Listed {
		outcomes[u.URL] = u.Result.String()
	}
	return res, outcomes, repairs, true
}

// replayPoller finds the seed with which chance falls as recorded.
func replayPoller(t *testing.T, r recording) (Result, map[string]string, []RepairRecord) {
	t.Helper()
	for seed := range uint64(2000) {
		if res, out, rep, ok := playPoller(t, r, seed, false); ok {
			return res, out, rep
		}
	}
	t.Fatal("no seed gives the recorded choices")
	return Result{}, nil, nil
}

// replayVoter lets our voter take the part of one recorded voter that joined.
func replayVoter(t *testing.T, r recording, id lockss.PeerID) (Result, []Effect) {
	t.Helper()
	var poll *lcap.Message
	var want []*lcap.Message
	var nonce, nonce2 []byte
	var nominees []lockss.PeerID
	props := map[string]map[string]string{}
	for _, e := range r.events {
		switch {
		case e.to == id && e.m.Opcode == lcap.OpPoll:
			poll = e.m
		case e.from == id:
			want = append(want, e.m)
			nominees = append(nominees, e.m.Nominees...)
			if len(e.m.VoterNonce) > 0 {
				nonce, nonce2 = e.m.VoterNonce, e.m.VoterNonce2
			}
			props[e.m.URL] = e.m.RepairProps
		}
	}
	params := testParams()
	r.params(&params)
	v, err := NewVoter(VoterConfig{Params: params, Local: id, Poller: r.poller, Poll: poll, PlugVer: poll.PlugVer, Groups: poll.Groups,
		HashStart: replayStart, HashEnd: replayStart.Add(poll.VoteDuration), Symmetric: len(nonce2) > 0,
		Nominees: func(time.Time, *rand.Rand) []lockss.PeerID { return nominees },
		Rand:     rand.New(rand.NewPCG(1, 1)), Nonce: lockss.NewNonce})
	if err != nil {
		t.Fatal(err)
	}
	v.voterNonce, v.voterNonce2 = nonce, nonce2
	lib := r.holds[id]()
	now := replayStart
	var sent []*lcap.Message
	var agreed []Effect
	var res Result
	var run func(ev Event)
	run = func(ev Event) {
		for _, e := range v.Step(now, ev) {
			switch e := e.(type) {
			case Send:
				sent = append(sent, e.M)
			case Hash:
				err := lib.hash(context.Background(), e.Request, func(b lcap.HashedBlock) error { run(Hashed{e.ID, b}); return nil })
				run(HashDone{e.ID, err})
			case Serve:
				c := Copy{URL: e.URL, Props: props[e.URL], Err: errNotHeld}
				if d, ok := lib.current(e.URL); ok && props[e.URL] != nil {
					c.Data, c.Err = d.data, nil
				}
				run(c)
			case Agreed:
				agreed = append(agreed, e)
			case Finished:
				res = e.Result
			}
		}
	}
	run(Begin{})
	for _, e := range r.events {
		if now = replayStart.Add(e.t); e.to == id && e.m.Opcode != lcap.OpPoll {
			run(Received{e.from, e.m})
		}
	}
	if len(sent) != len(want) {
		t.Errorf("voter %s: %d messages, recorded %d", id, len(sent), len(want))
		return res, agreed
	}
	for i := range want {
		if sent[i].Opcode != want[i].Opcode {
			t.Errorf("voter %s: message %d is %v, recorded %v", id, i, sent[i].Opcode, want[i].Opcode)
			continue
		}
		compare(t, sent[i], want[i], id, r.poller)
	}
	return res, agreed
}

// voters returns the peers that joined.
func (r recording) voters() []lockss.PeerID {
	var out []lockss.PeerID
	for _, e := range r.events {
		if e.m.Opcode == lcap.OpVote {
			out = append(out, e.from)
		}
	}
	return out
}

// --- transcripts.json ---

func transcripts(t *testing.T) (out []recording, expected []map[string]any) {
	var v struct {
		Polls []struct {
			Name    string
			Poller  lockss.PeerID
			Content map[lockss.PeerID]map[string]hexBytes
			Events  []struct {
				T        float64
				From, To lockss.PeerID
				Frame    string
				Payload  hexBytes `json:"payload_hex"`
			}
			Expected map[string]any
		}
	}
	readJSON(t, "transcripts.json", &v)
	for _, p := range v.Polls {
		r := recording{name: p.Name, poller: p.Poller, holds: map[lockss.PeerID]func() *library{}, params: func(p *Params) {
			p.Quorum, p.VotePadding, p.TallyPadding, p.ReceiptPadding = 2, 10*time.Second, 10*time.Second, 10*time.Second
			p.RepairFromCacheShare = 1
		}}
		for id, c := range p.Content {
			r.holds[id] = func() *library {
				l := &library{urls: map[string][]doc{}}
				for u, b := range c {
					l.put(u, b, nil)
				}
				return l
			}
		}
		for _, e := range p.Events {
			if e.Frame != "DATA" {
				continue
			}
			m, err := lcap.Decode(e.Payload)
			if err != nil {
				t.Fatal(err)
			}
			r.events = append(r.events, recorded{time.Duration(e.T * float64(time.Second)), e.From, e.To, m})
		}
		out = append(out, r)
		expected = append(expected, p.Expected)
	}
	if len(out) == 0 {
		t.Fatal("no transcripts")
	}
	return out, expected
}

func TestTranscripts(t *testing.T) {
	rs, expected := transcripts(t)
	for i, r := range rs {
		t.Run(r.name, func(t *testing.T) {
			want := expected[i]
			res, outcomes, repairs := replayPoller(t, r)
			urls := want["urls"].(map[string]any)
			if res.Status != "Complete" || res.URLs != len(urls) {
				t.Errorf("%s, %d URLs, want %d", res.Status, res.URLs, len(urls))
			}
			for u, o := range urls {
				if got := outcomes[u]; got != o && !(got == "" && o == "WON") {
					t.Errorf("%s: %s, want %s", u, got, o)
				}
			}
			var repaired []any
			for _, x := range repairs {
				if x.Result != RepairVerified || x.New == "" || x.New == x.Old {
					t.Errorf("%+v", x)
				}
				repaired = append(repaired, x.URL)
			}
			if !reflect.DeepEqual(repaired, want["repairs"]) && len(repaired)+len(want["repairs"].([]any)) > 0 {
				t.Errorf("repaired %v, want %v", repaired, want["repairs"])
			}
			if res.Agreement != 1 {
				t.Errorf("agreement %v", res.Agreement)
			}
			t.Log(res.Sentence)
			for _, id := range r.voters() {
				vres, agreed := replayVoter(t, r, id)
				if vres.Status != "Complete" || vres.Agreement < 0 {
					t.Errorf("voter %s: %+v", id, vres)
				}
				symmetric := strings.HasPrefix(r.name, "symmetric")
				if symmetric != (len(agreed) == 2) {
					t.Errorf("voter %s recorded %v", id, agreed)
				}
				for _, e := range agreed {
					// In these recordings both sides measure the same.
					if f := e.(Agreed).Values[r.poller]; float64(f) != vres.Agreement {
						t.Errorf("voter %s: %v of %v", id, e, vres.Agreement)
					}
				}
			}
		})
	}
}

// --- captures ---

const captures = "testdata/captures"

const pressHost = "http://press.example"

// site returns what a node holds of a volume after its first crawl.
func site(t *testing.T, volume string) *library {
	b, err := os.ReadFile(captures + "/site/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	var entries []struct{ Path, File, Redirect string }
	if err := json.Unmarshal(b, &entries); err != nil {
		t.Fatal(err)
	}
	file := map[string]string{}
	for _, e := range entries {
		file[e.Path] = e.File
	}
	l := &library{urls: map[string][]doc{}}
	for _, e := range entries {
		if !strings.HasPrefix(e.Path, "/"+volume+"/") {
			continue
		}
		if e.Redirect != "" {
			e.File = file[e.Redirect]
		}
		data, err := os.ReadFile(captures + "/site/files/" + filepath.Base(e.File))
		if err != nil {
			t.Fatal(err)
		}
		l.put(pressHost+strings.TrimSuffix(e.Path, "/"), data, nil)
	}
	return l
}

// capture reads the byte streams of a scenario.
func capture(t *testing.T, dir string) recording {
	b, err := os.ReadFile(captures + "/" + dir + "/streams.json")
	if err != nil {
		t.Fatal(err)
	}
	var conns []struct {
		Connection int
		Directions []struct {
			File   string
			Frames []struct {
				Op   int
				T    float64
				Peer lockss.PeerID `json:"peer_id"`
			}
		}
	}
	if err := json.Unmarshal(b, &conns); err != nil {
		t.Fatal(err)
	}
	r := recording{name: dir, holds: map[lockss.PeerID]func() *library{}}
	for _, c := range conns {
		var ids []lockss.PeerID
		for _, d := range c.Directions {
			for _, f := range d.Frames {
				if f.Op == 1 {
					ids = append(ids, f.Peer)
				}
			}
		}
		if len(ids) != 2 {
			t.Fatalf("connection %d: identities %v", c.Connection, ids)
		}
		for i, d := range c.Directions {
			data, err := os.ReadFile(captures + "/" + dir + "/" + filepath.Base(d.File))
			if err != nil {
				t.Fatal(err)
			}
			fr := lcap.NewFrameReader(bytes.NewReader(data), 1<<30)
			for n := 0; ; n++ {
				f, err := fr.Next()
				if err != nil {
					if n != len(d.Frames) {
						t.Fatalf("%s: %d frames, want %d: %v", d.File, n, len(d.Frames), err)
					}
					break
				}
				if f.Op == 1 {
					continue
				}
				m, err := lcap.Decode(f.Payload)
				if err != nil {
					t.Fatal(err)
				}
				r.events = append(r.events, recorded{time.Duration(d.Frames[n].T * float64(time.Second)), ids[i], ids[1-i], m})
			}
		}
	}
	slices.SortStableFunc(r.events, func(a, b recorded) int { return int(a.t - b.t) })
	r.poller = r.events[0].from
	return r
}

// node returns the identity of node n of the captured network.
func node(n int) lockss.PeerID { return lockss.PeerID(fmt.Sprintf("TCP:[127.0.0.1]:972%d", n)) }

// smudge overwrites bytes of the newest version.
func smudge(l *library, url string, from, to int, with byte) {
	l.change(url, func(d *doc) {
		d.data = slices.Clone(d.data)
		for i := from; i <= to; i++ {
			d.data[i] = with
		}
	})
}

const (
	art03   = pressHost + "/v1/issue1/art03.html"
	fig05   = pressHost + "/v1/issue1/fig05.png"
	fig03   = pressHost + "/v1/issue2/fig03.png"
	oneByte = pressHost + "/v1/one-byte.txt"
)

func TestCaptures(t *testing.T) {
	whole := func() *library { return site(t, "v1") }
	// Node 1 after damage as its own hash saw it in scenarios 03 and 04.
	damaged := func() *library {
		l := whole()
		smudge(l, art03, 100, 109, 'X')
		l.remove(fig05)
		l.remove(fig03) // deactivated by 1.x after scenario 02
		return l
	}
	rev2 := func() *library { // crawled again after a page had changed
		l := whole()
		b, err := os.ReadFile(captures + "/site/manifest-rev2.json")
		if err != nil {
			t.Fatal(err)
		}
		var entries []struct{ Path, File string }
		if err := json.Unmarshal(b, &entries); err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if pressHost+e.Path == oneByte {
				data, err := os.ReadFile(captures + "/site/files/" + filepath.Base(e.File))
				if err != nil {
					t.Fatal(err)
				}
				l.put(oneByte, data, nil)
			}
		}
		return l
	}
	repaired := func() *library { // node 1 later: the altered version below the repaired one
		l := whole()
		good, _ := l.current(art03)
		smudge(l, art03, 100, 109, 'X')
		l.put(art03, good.data, nil)
		return l
	}
	all := map[lockss.PeerID]func() *library{node(1): whole, node(2): whole, node(3): whole, node(4): whole, node(5): whole}
	with := func(f func() *library) map[lockss.PeerID]func() *library {
		return map[lockss.PeerID]func() *library{node(1): f, node(2): whole, node(3): whole, node(4): whole, node(5): whole}
	}
	v2 := func() *library { return site(t, "v2") }
	params := func(p *Params) {
		// A poll of at most 110 s: paddings in the capture are seconds.
		p.Quorum, p.VotePadding, p.TallyPadding, p.ReceiptPadding, p.ExtraPollTime = 3, 45*time.Second, 45*time.Second, 10*time.Second, 0
		p.RepairFromCacheShare = 1
	}
	repairs3 := map[string]lockss.PeerID{art03: node(3), fig05: node(5), fig03: node(5)}
	for _, c := range []struct {
		dir       string
		n         int // which poll in it
		holds     map[lockss.PeerID]func() *library
		quorum    int
		status    string
		agreement float32
		hints     map[lockss.PeerID]float32
		urls      int
		tooClose  int
		repairs   map[string]lockss.PeerID
		naks      map[lockss.PeerID]lcap.NAK
	}{
		{dir: "01-agree", holds: all, quorum: 3, status: "Complete", agreement: 1, urls: 72,
			hints: map[lockss.PeerID]float32{node(2): 1, node(3): 1, node(4): 1, node(5): 1}},
		{dir: "03-repair-refused", holds: with(damaged), quorum: 3, status: "Complete", agreement: 69.0 / 72, urls: 72,
			hints: map[lockss.PeerID]float32{node(2): 69.0 / 72, node(3): 69.0 / 72, node(4): 69.0 / 72, node(5): 69.0 / 72}},
		{dir: "04-repair", holds: with(damaged), quorum: 3, status: "Complete", agreement: 1, urls: 72, repairs: repairs3,
			hints: map[lockss.PeerID]float32{node(2): 69.0 / 72, node(3): 69.0 / 72, node(4): 69.0 / 72, node(5): 69.0 / 72}},
		{dir: "04-repair", n: 1, holds: with(repaired), quorum: 3, status: "Complete", agreement: 1, urls: 72,
			hints: map[lockss.PeerID]float32{node(2): 1, node(3): 1, node(4): 1, node(5): 1}},
		{dir: "06-symmetric", quorum: 3, status: "Complete", agreement: 1, urls: 73,
			holds: map[lockss.PeerID]func() *library{node(1): repaired, node(2): whole, node(4): rev2, node(5): rev2},
			hints: map[lockss.PeerID]float32{node(1): 1, node(3): 70.0 / 73, node(4): 1, node(5): 1}},
		{dir: "07-pop-modulus-2", quorum: 3, status: "Complete", agreement: 1, urls: 38,
			holds: map[lockss.PeerID]func() *library{node(1): repaired, node(2): whole, node(4): rev2, node(5): rev2},
			hints: map[lockss.PeerID]float32{node(1): 1, node(2): 1, node(5): 1}},
		{dir: "08-quorum-1-too-close", quorum: 1, status: "Complete", agreement: 70.0 / 73, urls: 73, tooClose: 3,
			holds: map[lockss.PeerID]func() *library{node(1): repaired, node(2): whole, node(5): rev2},
			hints: map[lockss.PeerID]float32{node(2): 1, node(3): 70.0 / 73, node(5): 1},
			naks:  map[lockss.PeerID]lcap.NAK{node(4): lcap.NAKDisabled}},
		{dir: "09-declines-no-quorum", quorum: 3, status: "No Quorum", agreement: -1, urls: 6,
			holds: map[lockss.PeerID]func() *library{node(1): v2, node(2): v2, node(3): v2},
			hints: map[lockss.PeerID]float32{node(2): 1, node(3): 1},
			naks:  map[lockss.PeerID]lcap.NAK{node(4): lcap.NAKDisabled, node(5): lcap.NAKNoAU}},
	} {
		t.Run(fmt.Sprintf("%s/%d", c.dir, c.n), func(t *testing.T) {
			r := capture(t, c.dir).of(c.n)
			r.holds = c.holds
			r.params = func(p *Params) { params(p); p.Quorum = c.quorum }
			res, _, repairs := replayPoller(t, r)
			t.Log(res.Sentence)
			if res.Status != c.status || float32(res.Agreement) != c.agreement || res.URLs != c.urls || res.TooClose != c.tooClose {
				t.Errorf("%s %v, %d URLs, %d too close; want %s %v %d %d", res.Status, res.Agreement, res.URLs, res.TooClose, c.status, c.agreement, c.urls, c.tooClose)
			}
			for _, q := range res.Participants {
				if want, ok := c.hints[q.Peer]; ok && float32(q.Agreement) != want {
					t.Errorf("%s: %v, want %v", q.Peer, q.Agreement, want)
				}
				if q.NAK != c.naks[q.Peer] {
					t.Errorf("%s: %q, want %q", q.Peer, q.NAK, c.naks[q.Peer])
				}
			}
			done := map[string]lockss.PeerID{}
			for _, x := range repairs {
				if x.Result == RepairVerified {
					done[x.URL] = x.From
				}
			}
			if len(done)+len(c.repairs) > 0 && !reflect.DeepEqual(done, c.repairs) {
				t.Errorf("repaired %v, want %v", done, c.repairs)
			}
			for _, id := range r.voters() {
				if r.holds[id] == nil {
					continue // holds something that is not on the site
				}
				vres, _ := replayVoter(t, r, id)
				if vres.Status != "Complete" || float32(vres.Agreement) != c.hints[id] {
					t.Errorf("voter %s: %+v", id, vres)
				}
			}
		})
	}
}

// TestCaptureDigests makes sure the site is what the votes were made of.
func TestCaptureDigests(t *testing.T) {
	l := site(t, "v1")
	if len(l.urls) != 72 {
		t.Fatalf("%d URLs", len(l.urls))
	}
	for _, e := range capture(t, "01-agree").events {
		if e.m.Opcode != lcap.OpVote {
			continue
		}
		var got []lcap.VoteBlock
		_ = l.hash(context.Background(), HashRequest{Algorithm: "SHA-1", Challenges: [][]byte{slices.Concat(e.m.PollerNonce, e.m.VoterNonce)}},
			func(b lcap.HashedBlock) error { got = append(got, b.VoteBlock(0)); return nil })
		compareBlocks(t, got, e.m.Blocks)
	}
}
