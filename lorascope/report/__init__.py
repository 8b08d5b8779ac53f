"""What a comparison found, shown to people: one offline HTML file, charts, and a summary in the terminal."""
