from checkout import main

if __name__ == '__main__':
    main('export')
