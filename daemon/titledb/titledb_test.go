package titledb

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// node is a property of a configuration file; flatten gives its keys as package config does.
type node struct {
	Name  string  `xml:"name,attr"`
	Value *string `xml:"value,attr"`
	Props []node  `xml:"property"`
}

func (n node) flatten(prefix string, into map[string]string) {
	for _, p := range n.Props {
		key := p.Name
		if prefix != "" {
			key = prefix + "." + key
		}
		if p.Value != nil {
			into[key] = *p.Value
		}
		p.flatten(key, into)
	}
}

func TestVectors(t *testing.T) {
	var cases []struct {
		Name, XML string
		Titles    []struct {
			Publisher, Provider, TitleName, AUName, Plugin, PublicationType string
			Params, Attributes, Properties                                  map[string]string
			EstimatedSize                                                   int64
			IsDown                                                          bool
		}
	}
	b, err := os.ReadFile("testdata/titledb.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			if c.Name == "two entries with the same id" {
				t.Skip("not covered: a flattened configuration cannot hold two entries of one id")
			}
			var root node
			if err := xml.Unmarshal([]byte(c.XML), &root); err != nil {
				t.Fatal(err)
			}
			props := map[string]string{}
			root.flatten("", props)
			titles, faults := FromProps(props)
			for _, f := range faults {
				var ee *EntryError
				if !errors.As(f, &ee) {
					t.Errorf("fault %T", f)
				}
				t.Log(f)
			}
			foreign := c.Name == "foreign keys"
			if err := CheckKeys(props); (err != nil) != foreign {
				t.Errorf("CheckKeys: %v", err)
			}
			slices.SortFunc(titles, func(a, b Title) int { return strings.Compare(a.Name, b.Name) })
			slices.SortFunc(c.Titles, func(a, b struct {
				Publisher, Provider, TitleName, AUName, Plugin, PublicationType string
				Params, Attributes, Properties                                  map[string]string
				EstimatedSize                                                   int64
				IsDown                                                          bool
			}) int {
				return strings.Compare(a.AUName, b.AUName)
			})
			if len(titles) != len(c.Titles) {
				t.Fatalf("%d titles, want %d", len(titles), len(c.Titles))
			}
			for i, w := range c.Titles {
				g := titles[i]
				if g.Name != w.AUName || g.PluginID != w.Plugin || g.JournalName() != w.TitleName || g.Publisher() != w.Publisher ||
					g.Provider() != w.Provider || g.Type() != w.PublicationType || g.EstimatedSize() != w.EstimatedSize || g.Down() != w.IsDown {
					t.Errorf("%s: %+v %s %s, want %+v", w.AUName, g, g.Publisher(), g.Provider(), w)
				}
				if !reflect.DeepEqual(g.Params, w.Params) || !reflect.DeepEqual(g.Attributes, w.Attributes) || !reflect.DeepEqual(g.Properties, w.Properties) {
					t.Errorf("%s\n got %v %v %v\nwant %v %v %v", w.AUName, g.Params, g.Attributes, g.Properties, w.Params, w.Attributes, w.Properties)
				}
			}
		})
	}
}

func TestFaults(t *testing.T) {
	props := map[string]string{
		"org.lockss.title.A.title":            "Good",
		"org.lockss.title.A.plugin":           "org.example.P",
		"org.lockss.title.A.param.1.key":      "base_url",
		"org.lockss.title.A.param.1.value":    "http://a.example/",
		"org.lockss.title.A.param.2.value":    "no key",
		"org.lockss.title.A.param.1.editable": "true",
		"org.lockss.title.B.title":            "No plugin",
		"org.lockss.title.C.title":            "Twin",
		"org.lockss.title.C.plugin":           "org.example.P",
		"org.lockss.title.C.param.x.key":      "base_url",
		"org.lockss.title.C.param.x.value":    "http://a.example/",
		"org.lockss.title.stray":              "x",
		"org.lockss.au.other":                 "not ours",
	}
	titles, faults := FromProps(props)
	if len(titles) != 1 || titles[0].Params["base_url"] != "http://a.example/" {
		t.Errorf("titles %+v", titles)
	}
	var skipped int
	for _, f := range faults {
		var ee *EntryError
		if errors.As(f, &ee) && ee.Skipped {
			skipped++
		}
	}
	if len(faults) != 4 || skipped != 2 {
		t.Errorf("faults %v, want 4 with 2 entries skipped", faults)
	}
	more, faults := Merge(titles, []Title{titles[0], {Key: "D", Name: "D", PluginID: "org.example.P"}})
	if len(more) != 2 || len(faults) != 1 {
		t.Errorf("merged %v, %v", more, faults)
	}
}
