package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"armarium/daemon/plugin"
)

func packCommand() *cobra.Command {
	var out, src string
	var force bool
	c := &cobra.Command{
		Use:   "pack PLUGIN-ID... --src DIR -o FILE.jar",
		Short: "Pack plugin definitions into an unsigned archive",
		Long: `Packs each plugin with everything in its directory and in those of its ancestors. The directory
--src is the root of the ids: org.example.ExamplePlugin lies at org/example/ExamplePlugin.xml.
The same files give the same bytes. Every plugin is loaded first; one that does not load is not packed.`,
		Example: `  armarium plugin pack org.example.ExamplePlugin --src plugins -o ExamplePlugin.jar
  armarium plugin sign ExamplePlugin.jar --keystore alice-lockss.keystore -o signed/ExamplePlugin.jar`,
		Args: args(1, -1, "the ids of one or more plugins, such as org.example.ExamplePlugin"),
		RunE: func(cmd *cobra.Command, ids []string) error {
			if out == "" {
				return usagef("say with -o which file to write")
			}
			b, err := plugin.PackJar(os.DirFS(src), ids)
			if err != nil {
				return err
			}
			if err := writeFile(out, b, 0o644, force); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d bytes, unsigned. Next: armarium plugin sign %s --keystore FILE\n", out, len(b), out)
			return nil
		},
	}
	c.Flags().StringVar(&src, "src", ".", "root directory of the plugin sources")
	c.Flags().StringVarP(&out, "output", "o", "", "archive to write")
	c.Flags().BoolVar(&force, "force", false, "replace an existing file")
	return c
}
