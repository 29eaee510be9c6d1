from taft_ray.cli import main

if __name__ == "__main__":
    main()
