from reranker_serve.cli import main

raise SystemExit(main())
